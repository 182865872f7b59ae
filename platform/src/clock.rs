//! The one place that reads the wall clock; machines get the time as an argument.

use schemas::time::Millis;

/// Now, in UTC.
pub fn now() -> Millis {
    Millis::from(jiff::Timestamp::now())
}

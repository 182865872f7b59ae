//! Instants as the contract writes them: milliseconds since 1970, UTC.
//!
//! Owns the type and its text; never reads a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(i64);

impl Millis {
    /// Wraps a number that already has this meaning.
    pub const fn new(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn get(self) -> i64 {
        self.0
    }

    /// Milliseconds from `earlier` to this instant; 0 when it is not later.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// This instant moved by whole milliseconds.
    #[must_use]
    pub const fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// A text that is no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a day such as 2026-01-31 nor a time with its offset such as 2026-01-31T10:00:00+02:00"
)]
pub struct NoInstant(String);

impl FromStr for Millis {
    type Err = NoInstant;

    /// A time with its offset, or a day, which begins in UTC.
    fn from_str(text: &str) -> Result<Self, NoInstant> {
        let no_instant = || NoInstant(text.to_owned());
        let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
        let at = match text.len() {
            10 => day().map(|day| day.timestamp()),
            _ => text.parse().ok(),
        };
        at.map(Self::from).ok_or_else(no_instant)
    }
}

impl From<jiff::Timestamp> for Millis {
    fn from(at: jiff::Timestamp) -> Self {
        Self(at.as_millisecond())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_as_rfc_3339_and_out_of_range_as_a_number() {
        assert_eq!(Millis::new(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Millis::new(i64::MAX).to_string(), format!("{} ms", i64::MAX));
    }

    #[test]
    fn a_day_begins_in_utc_and_a_time_has_its_offset() {
        assert_eq!("1970-01-02".parse(), Ok(Millis::new(86_400_000)));
        assert_eq!("1970-01-01T02:00:01+02:00".parse(), Ok(Millis::new(1_000)));
        for text in ["yesterday", "1970-01-01T00:00:00", "1970-13-01", ""] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }

    #[test]
    fn since_never_goes_below_zero() {
        assert_eq!(Millis::new(5).since(Millis::new(9)), 0);
        assert_eq!(Millis::new(9).since(Millis::new(5)), 4);
    }
}

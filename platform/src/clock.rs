//! The only room that reads clocks; machines get the time as an argument.

use std::time::Duration;

use schemas::time::Millis;

/// Now, in UTC.
pub fn now() -> Millis {
    #[cfg(feature = "simulation")]
    if let Some(host) = crate::host::current() {
        return host.now();
    }
    Millis::from(jiff::Timestamp::now())
}

/// Time since the machine started, including suspension; leases are measured by it. `Instant` stops while the machine
/// sleeps.
pub fn since_boot() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(host) = crate::host::current() {
        return host.since_boot();
    }
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}

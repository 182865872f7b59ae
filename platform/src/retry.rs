//! The waits between attempts: exponential with jitter, bounded, reset by success.
//!
//! Owns the only use of the `backoff` crate (unmaintained since 2025; see deny.toml): a replacement changes only this
//! room.

use std::time::Duration;

use backoff::backoff::Backoff;

/// The first wait: long enough to spare a peer that restarts.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait: after an outage a site is served within this time.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The waits of one action that is tried until it succeeds.
#[derive(Debug)]
pub struct Retry(backoff::ExponentialBackoff);

impl Default for Retry {
    fn default() -> Self {
        Self::new(FIRST_WAIT, LONGEST_WAIT)
    }
}

impl Retry {
    /// Waits that begin at `first` and never exceed `longest` by more than the jitter.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self(
            backoff::ExponentialBackoffBuilder::new()
                .with_initial_interval(first)
                .with_max_interval(longest)
                .with_randomization_factor(0.3)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    pub fn next_wait(&mut self) -> Duration {
        #[cfg(feature = "simulation")]
        if let Some(host) = crate::host::current() {
            // The crate's own jitter has no seed.
            let interval = self.0.current_interval;
            self.0.next_backoff();
            return interval * (700 + u32::try_from(host.below(600)).unwrap_or(0)) / 1_000;
        }
        self.0.next_backoff().unwrap_or(LONGEST_WAIT)
    }

    /// Begins again with the first wait.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew_after_success() {
        let mut retry = Retry::default();
        let waits: Vec<_> = (0..40).map(|_| retry.next_wait()).collect();
        assert!(waits.iter().all(|w| *w <= LONGEST_WAIT.mul_f64(1.31)));
        assert!(waits[39] >= LONGEST_WAIT.mul_f64(0.69));
        retry.reset();
        assert!(retry.next_wait() <= FIRST_WAIT.mul_f64(1.31));
    }
}

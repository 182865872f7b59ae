//! When each event of an even load is due.
//!
//! Owns the arithmetic, the same for ours and for raw Kafka.

use std::time::Duration;

/// An even load: all three options, or none of them.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Pace {
    /// Events a second, evenly.
    #[arg(long, required = false, requires_all = ["together", "warm_up"])]
    pub(crate) rate: u64,
    /// Events that are sent together.
    #[arg(long, required = false, requires = "rate")]
    pub(crate) together: u64,
    /// Seconds at the beginning in which events are sent and not measured.
    #[arg(long, required = false, requires = "rate")]
    pub(crate) warm_up: u64,
}

impl Pace {
    fn micros(self, number: u64) -> u64 {
        number.saturating_mul(1_000_000) / self.rate.max(1)
    }

    /// When an event is sent, after the beginning: with the last of its group, as from a source that collects.
    pub(crate) fn due(self, number: u64) -> Duration {
        let together = self.together.max(1);
        Duration::from_micros(self.micros(number - number % together + (together - 1)))
    }

    /// Microseconds since 1970 at which an event was meant to be sent; 0 where it is not measured.
    pub(crate) fn sent_at(self, number: u64, begun: i64) -> i64 {
        if number < self.warm_up.saturating_mul(self.rate) {
            return 0;
        }
        begun.saturating_add(i64::try_from(self.micros(number)).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Words {
        #[command(flatten)]
        pace: Option<Pace>,
    }

    #[test]
    fn a_pace_is_all_its_words_or_none() {
        let all = ["part", "--rate", "5", "--together", "1", "--warm-up", "0"];
        let parsed = Words::try_parse_from(all).expect("a pace");
        assert_eq!(parsed.pace.map(|pace| pace.rate), Some(5));
        assert!(Words::try_parse_from(&all[..1]).expect("no pace").pace.is_none());
        for words in [&all[..3], &all[..5], &["part", "--together", "1"]] {
            Words::try_parse_from(words).expect_err("half a pace");
        }
    }

    #[test]
    fn a_group_goes_when_its_last_event_is_due_and_each_counts_from_its_own_time() {
        let pace = Pace { rate: 1_000, together: 10, warm_up: 1 };
        let due: Vec<_> = [0, 9, 10, 1_009].map(|number| pace.due(number).as_millis()).into();
        assert_eq!(due, [9, 9, 19, 1_009]);
        assert_eq!(
            [0, 999, 1_000, 1_003].map(|number| pace.sent_at(number, 5)),
            [0, 0, 1_000_005, 1_003_005]
        );
    }
}

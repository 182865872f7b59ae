//! When a sink settles: often enough for its readers, and seldom enough for a large replica.
//!
//! Owns the rest after a settle. Decides nothing about what is settled.

use std::time::Duration;

use crate::sink::Sink;
use crate::sink::error::SinkError;

/// The longest time between two settles while events come without a pause.
const SETTLE_EVERY: Duration = Duration::from_secs(10);
/// After a settle the sink rests for so many times as long as it took: the files of a large replica would otherwise take all
/// of the agent's time.
const SETTLE_REST: u32 = 4;

/// When the sink settled last, and how long that took.
pub(super) struct Settling {
    ended: tokio::time::Instant,
    took: Duration,
}

impl Settling {
    /// Nothing has settled yet.
    pub(super) fn begin() -> Self {
        Self { ended: tokio::time::Instant::now(), took: Duration::ZERO }
    }

    /// The rest that is left to the sink.
    pub(super) fn rest(&self) -> Duration {
        (self.took * SETTLE_REST).saturating_sub(self.ended.elapsed())
    }

    /// Whether it settles now although events come without a pause.
    pub(super) fn is_due(&self) -> bool {
        self.ended.elapsed() >= SETTLE_EVERY && self.rest().is_zero()
    }

    /// Settles the sink.
    pub(super) async fn settle(&mut self, sink: &mut dyn Sink) -> Result<(), SinkError> {
        let begun = tokio::time::Instant::now();
        sink.settle().await?;
        *self = Self { ended: tokio::time::Instant::now(), took: begun.elapsed() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use schemas::cursor::Cursor;

    use super::*;
    use crate::sink::{Batch, See, StreamHead};

    /// A sink that takes five seconds to settle.
    struct Slow;

    #[async_trait]
    impl Sink for Slow {
        fn system(&self) -> &'static str {
            "slow"
        }

        fn cursor(&self) -> Option<Cursor> {
            None
        }

        async fn begin(&mut self, _: &StreamHead) -> Result<(), SinkError> {
            Ok(())
        }

        async fn apply(&mut self, _: &Batch) -> Result<(), SinkError> {
            Ok(())
        }

        async fn settle(&mut self) -> Result<(), SinkError> {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        }

        async fn scan(&mut self, _: &mut See<'_>) -> Result<(), SinkError> {
            Ok(())
        }

        fn row_count(&self) -> usize {
            0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_took_long_rests_for_longer() {
        let mut settling = Settling::begin();
        assert!(settling.rest().is_zero() && !settling.is_due());
        tokio::time::advance(SETTLE_EVERY).await;
        assert!(settling.is_due(), "events have come without a pause");
        settling.settle(&mut Slow).await.unwrap();
        assert_eq!(settling.rest(), Duration::from_secs(20));
        tokio::time::advance(SETTLE_EVERY).await;
        assert!(!settling.is_due());
        tokio::time::advance(SETTLE_EVERY).await;
        assert!(settling.is_due() && settling.rest().is_zero());
    }
}

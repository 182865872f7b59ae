//! How far a stream is, and when its consumer and the metrics learn of it.
//!
//! Owns the progress timer, and the step from a follower's place to the stream's place.

use std::time::Duration;

use platform::clock::now;
use schemas::delivery::{Delivery, Progress};
use schemas::ids::Partition;
use schemas::per_partition::PerPartition;
use tokio::time::Instant;

use super::super::stop::Stop;
use super::Session;
use crate::fanout::observer::Follower;
use crate::fanout::subscriber::Subscriber;
use crate::metrics::Passed;

/// Progress is sent at least this often, even if nothing happens: a silent stream counts as stalled.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Progress past events that are not the consumer's is sent at most this often: otherwise a thousand streams that get
/// nothing would send a thousand frames for each event.
const PASSING: Duration = Duration::from_secs(1);
/// So many streams of a channel report so often; more of them report less often, so that the router's work for streams that
/// get nothing has a limit.
const REPORTING: u32 = 1_000;

/// How often a stream reports progress past events that are not its consumer's, and looks at the tails, among so many.
fn passing(streams: usize) -> Duration {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    (PASSING * streams / REPORTING).clamp(PASSING, HEARTBEAT)
}

/// When progress is due again.
pub(super) struct ProgressTimer {
    reported_at: Instant,
    /// How long until the next look at the tails.
    pub(super) passing: Duration,
    /// Whether events that are not the consumer's were passed since.
    pub(super) has_moved: bool,
}

impl ProgressTimer {
    /// The timer of one among so many streams of a channel.
    pub(super) fn start(streams: usize) -> Self {
        Self { reported_at: Instant::now(), passing: passing(streams), has_moved: false }
    }

    pub(super) fn due(&self) -> Instant {
        self.reported_at + if self.has_moved { self.passing } else { HEARTBEAT }
    }
}

impl Session {
    /// Moves the stream's place to the follower's.
    pub(super) fn pass_by(&mut self, partition: Partition, follower: &Follower) {
        let place = follower.place();
        if let Some(known) = self.places.get_mut(partition) {
            *known = place;
        }
        self.meter.passed(partition, Passed { to: place.offset, at: follower.fold().passed_at });
    }

    /// A waiting subscriber has passed every record until now.
    pub(super) fn stand_at_end(&self, partition: Partition, subscriber: &Subscriber) {
        if subscriber.is_waiting() {
            let passed = Passed { to: subscriber.follower().place().offset, at: Some(now()) };
            self.meter.passed(partition, passed);
        }
    }

    pub(super) fn progress(&mut self, partition: Partition, follower: &Follower) -> Result<(), Stop> {
        let place = follower.place();
        let freshness = follower.fold().freshness;
        let passed_at = follower.fold().passed_at;
        let end = follower.feed().tail().next.max(place.offset);
        self.encoder.mark(&Delivery::Progress(Progress { partition, place, freshness, end, passed_at }))?;
        Ok(())
    }

    /// Sends the progress of every partition, when it is due.
    pub(super) async fn report_if_due(&mut self, subscribers: &PerPartition<Subscriber>) -> Result<(), Stop> {
        if Instant::now() < self.progress_timer.due() {
            return Ok(());
        }
        for (partition, subscriber) in subscribers.iter() {
            self.progress(partition, subscriber.follower())?;
        }
        self.progress_timer = ProgressTimer::start(self.subscription.of_channel());
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_streams_report_less_often_and_none_falls_silent() {
        let seconds = [1, 1_000, 2_500, 100_000].map(|streams| passing(streams).as_secs_f64());
        assert_eq!(seconds, [1.0, 1.0, 2.5, 5.0]);
        assert_eq!(passing(usize::MAX), HEARTBEAT);
    }
}

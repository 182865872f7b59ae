//! Where a stream stands, and when its consumer and the metrics are told.
//!
//! Owns the progress timer, and the step from what a follower has read to what the stream has passed.

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

/// Progress is told at least so often, also when nothing happens: a silent stream is a stalled one.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Progress through events that are not the consumer's is told so often at most: a thousand streams that get
/// nothing would else send a thousand frames for each event.
pub(super) const PASSING: Duration = Duration::from_secs(1);

/// When progress is due again.
pub(super) struct ProgressTimer {
    reported_at: Instant,
    /// Whether events that are not the consumer's have gone by since.
    pub(super) has_moved: bool,
}

impl ProgressTimer {
    pub(super) fn start() -> Self {
        Self { reported_at: Instant::now(), has_moved: false }
    }

    pub(super) fn due(&self) -> Instant {
        self.reported_at + if self.has_moved { PASSING } else { HEARTBEAT }
    }
}

impl Session {
    /// The stream stands behind what the follower has read.
    pub(super) fn pass_by(&mut self, partition: Partition, follower: &Follower) {
        let place = follower.place();
        if let Some(known) = self.places.get_mut(partition) {
            *known = place;
        }
        self.meter.passed(partition, Passed { to: place.offset, at: follower.fold().passed_at });
    }

    /// Everything that the log took until now has been passed.
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

    /// Tells the progress of every partition, when it is time.
    pub(super) async fn report_if_due(&mut self, subscribers: &PerPartition<Subscriber>) -> Result<(), Stop> {
        if Instant::now() < self.progress_timer.due() {
            return Ok(());
        }
        for (partition, subscriber) in subscribers.iter() {
            self.progress(partition, subscriber.follower())?;
        }
        self.progress_timer = ProgressTimer::start();
        self.flush().await
    }
}

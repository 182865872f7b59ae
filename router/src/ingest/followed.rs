//! The traced events of a batch: their ingest and their append as stages of their traces.
//!
//! Owns what a trace says about a refused batch. Decides nothing.

use platform::traces::{Stage, StageSpan};
use schemas::ids::{ChannelName, Partition};

use super::batch::Envelope;
use super::error::PublishError;

/// The traced events of one batch; their ingest ends when this is dropped.
pub(super) struct Followed(Vec<StageSpan>);

impl Followed {
    /// Of a batch; most have none.
    pub(super) fn of(envelope: &Envelope, channel: &ChannelName, partition: Partition) -> Self {
        let follow = |trace| StageSpan::on(Stage::Ingest, Some(trace), channel.as_str(), partition);
        Self(envelope.traces.values().filter_map(follow).collect())
    }

    /// Their append to a topic of a log (`system` in the conventions' words); it ends when this is dropped.
    pub(super) fn appending(
        &self,
        system: &'static str,
        topic: &str,
        partition: Partition,
    ) -> Vec<StageSpan> {
        let within = |stage: &StageSpan| {
            stage.within(Stage::Append, topic, partition).with("messaging.system", system)
        };
        self.0.iter().map(within).collect()
    }

    /// The batch was not taken.
    pub(super) fn failed(&self, error: &PublishError) {
        let class = match error {
            PublishError::Append(_) => "append",
            PublishError::NotReadBack(_) => "read_back",
            PublishError::Lost(_) => "lost_topic",
            PublishError::NotAtWork(..) => "not_at_work",
            PublishError::ChannelUnknown(_)
            | PublishError::PartitionUnknown(..)
            | PublishError::NotOwner { .. }
            | PublishError::Collection(_)
            | PublishError::Batch(_)
            | PublishError::Register(_) => "refused",
        };
        self.0.iter().for_each(|stage| stage.failed(class));
    }
}

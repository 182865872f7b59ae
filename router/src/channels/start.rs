//! The start of one channel: its topics with checkpoint 0, and a feed and a materialiser for each partition.
//!
//! Owns the condition for answers from a partition: its topic is the channel's own, read up to its end at the start.

use std::sync::Arc;
use std::time::Duration;

use event_log::{AppendError, Cleanup, TopicError, TopicSpec};
use platform::retry::Retry;
use platform::shutdown::Tasks;
use reading::error::ReaderError;
use reading::source::PartitionSource;
use schemas::epoch_table::EpochTable;
use schemas::ids::{Offset, Partition};
use schemas::marks::{self, Checkpoint};
use schemas::per_partition::PerPartition;
use schemas::record::Kind;

use super::Channels;
use crate::control::view::ChannelEntry;
use crate::fanout::FanOut;
use crate::fanout::observer::{ChannelObserver, Feed};
use crate::state::materialise::{self, RestoredState};
use crate::state::tenure::{StateProgress, StateWatch};

/// The history window: at least three times the bootstrap bound.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(24 * 30);

/// Why a channel could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ChannelStartError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    State(#[from] materialise::StateError),
}

type Started = (PerPartition<Arc<Feed>>, PerPartition<StateWatch>);

impl Channels {
    pub(super) async fn start_partitions(
        &self,
        entry: &ChannelEntry,
        fan_out: &Arc<FanOut>,
        running: &Tasks,
    ) -> Result<Started, ChannelStartError> {
        let channel = &entry.channel;
        let log_topic = TopicSpec {
            name: channel.log_topic(),
            partitions: channel.partitions,
            cleanup: Cleanup::Retention(DEFAULT_RETENTION),
        };
        let state_topic = TopicSpec {
            name: channel.state_topic(),
            partitions: channel.partitions,
            // Its materialiser deletes what nobody needs any more.
            cleanup: Cleanup::KeepAll,
        };
        self.log.ensure_topic(&log_topic).await?;
        self.log.ensure_topic(&state_topic).await?;
        let mut feeds = Vec::new();
        let mut materialised = Vec::new();
        for partition in Partition::all(channel.partitions) {
            let source = PartitionSource {
                log: Arc::clone(&self.log),
                codecs: Arc::clone(&self.codecs),
                topic: log_topic.name.clone(),
                partition,
                kind: channel.kind,
                log_id: entry.log_id,
            };
            self.begin_partition(&source, &state_topic.name).await?;
            let end = self.log.bounds(&source.topic, source.partition).await?.next;
            // The state's checkpoint has the fold of the log before it: a start reads only later records.
            let state = StateWatch::new(&state_topic.name, source.partition);
            let restored = restore(&source, &state).await?;
            let observer = ChannelObserver::new(Arc::clone(fan_out), self.metrics.reader(&channel.name));
            let feed = Feed::at(source, restored.fold, restored.position, observer);
            let reader = Arc::clone(&feed);
            let shards = self.shards.clone();
            let progress = state.clone();
            self.run_until_stopped(running, async move { read_for_ever(&reader, &progress).await });
            let read = Arc::clone(&feed);
            let reached = state.clone();
            self.run_until_stopped(running, async move { shards.materialise(read, reached).await });
            materialised.push(state);
            feeds.push((feed, end));
        }
        // No answer may come from a table of the past: a replaying tail is no tail yet.
        for (feed, end) in &feeds {
            let mut tail = feed.watch();
            let caught_up = tail.wait_for(|tail| tail.next >= *end || tail.fault.is_some()).await;
            let fault = caught_up.map(|tail| tail.fault.clone()).unwrap_or_default();
            if let Some(fault) = fault {
                return Err(TopicError::Unavailable(fault.to_string()).into());
            }
        }
        Ok((feeds.into_iter().map(|(feed, _)| feed).collect(), materialised.into_iter().collect()))
    }

    fn run_until_stopped(&self, running: &Tasks, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = running.stopping();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = task => {}
            }
        });
    }

    /// Checkpoint 0 is the first record of every partition: it carries the log's id.
    async fn begin_partition(
        &self,
        source: &PartitionSource,
        state_topic: &str,
    ) -> Result<(), ChannelStartError> {
        let bounds = self.log.bounds(&source.topic, source.partition).await?;
        if bounds.next == Offset::new(0) {
            let state = self.log.bounds(state_topic, source.partition).await?;
            if state.next > Offset::new(0) {
                return Err(source.lost("it is empty, but its state is not").into());
            }
            let checkpoint = Checkpoint {
                log_id: source.log_id,
                as_of: Offset::new(0),
                freshness: None,
                table: EpochTable::default(),
            };
            let record = marks::record(Kind::Checkpoint, &checkpoint.encode());
            self.log.append(&source.topic, source.partition, vec![record]).await?;
        }
        Ok(())
    }
}

/// A new reader begins where the state ends.
async fn restore(
    source: &PartitionSource,
    state: &StateWatch,
) -> Result<RestoredState, materialise::StateError> {
    let last = state.look(source.log.as_ref()).await?;
    let restored = RestoredState::at(source, last).await?;
    // The provider learns of it before a router writes it into the state.
    if restored.is_overtaken {
        state.advance(StateProgress { to: restored.position, overtaken: Some(restored.position) });
    }
    Ok(restored)
}

/// Reads a partition. If retention removed records that the router had not read, it continues where the state ends.
async fn read_for_ever(feed: &Feed, state: &StateWatch) {
    let mut retry = Retry::default();
    loop {
        let wanted = feed.run().await;
        let topic = &feed.source().topic;
        let partition = feed.source().partition;
        match restore(feed.source(), state).await {
            Ok(RestoredState { fold, position, .. }) if position > wanted => {
                tracing::warn!(%topic, %partition, %wanted, %position, "retention removed records that this router had not read; the router reads on where the state ends");
                retry.reset();
                feed.move_to(&fold, position);
            }
            outcome => {
                let wait = retry.next_wait();
                let error = outcome.err().map(|error| error.to_string());
                tracing::error!(%topic, %partition, %wanted, ?error, ?wait, "retention removed records that this router had not read; it tries again after the wait");
                feed.fail(ReaderError::TooOld { wanted });
                tokio::time::sleep(wait).await;
            }
        }
    }
}

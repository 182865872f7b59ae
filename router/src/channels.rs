//! All channels of a router: made when control declares them, read until it stops.
//!
//! Owns the making of topics with checkpoint 0, and the start of feeds and materialisers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::ids::{ChannelName, Offset, Partition};
use schemas::marks::{self, Checkpoint};
use schemas::per_partition::PerPartition;
use schemas::record::Kind;
use schemas::table::Table;
use tokio::sync::{Semaphore, watch};

use crate::channel::audience::Audience;
use crate::channel::feed::Feed;
use crate::channel::reader::{ReaderError, Source};
use crate::control::view::ChannelEntry;
use crate::lease::service::Lease;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::codecs::Codecs;
use crate::state::materialise::{self, Standing};
use crate::state::shards::Shards;
use crate::state::term::{Known, Reach};
use event_log::{AppendError, Cleanup, Log, TopicError, TopicSpec};

/// The bound of a bootstrap: what the state may not compact away meanwhile.
pub const BOOTSTRAP_BOUND: Duration = Duration::from_hours(24);
/// The history window: at least three times the bootstrap bound.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(24 * 30);

/// Why a channel could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its topics.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Its first checkpoint.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Its partitions.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// Its state.
    #[error(transparent)]
    State(#[from] materialise::StateError),
}

/// A channel at work.
pub struct Running {
    /// The declaration.
    pub entry: Arc<ChannelEntry>,
    /// Who listens at the partitions' tails.
    pub audience: Arc<Audience>,
    /// The feed of each partition.
    pub feeds: PerPartition<Arc<Feed>>,
    /// How far the state of each partition has got.
    pub materialised: PerPartition<Reach>,
    /// Turns of its owner's agents at reading the whole state.
    pub readings: Arc<Semaphore>,
}

/// Readings of one channel's state by its owner at once: one agent reopens, another may look on.
pub const READINGS_AT_ONCE: usize = 2;

impl Running {
    /// The feed of a partition.
    pub fn feed(&self, partition: Partition) -> Option<&Arc<Feed>> {
        self.feeds.get(partition)
    }
}

type Started = (PerPartition<Arc<Feed>>, PerPartition<Reach>);

/// All channels of a router; clones share them.
#[derive(Clone)]
pub struct Channels {
    log: Arc<dyn Log>,
    codecs: Codecs,
    shards: Shards,
    metrics: Metrics,
    running: Arc<RwLock<HashMap<ChannelName, Arc<Running>>>>,
    /// Why a channel is not at work.
    faults: Arc<RwLock<HashMap<ChannelName, String>>>,
    changed: watch::Sender<u64>,
    tasks: Tasks,
}

impl Channels {
    /// Starts what is declared, and goes on starting what will be.
    pub async fn start(
        log: Arc<dyn Log>,
        registry: &Registry,
        lease: Lease,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let control = registry.control();
        let channels = Self {
            codecs: Codecs::new(registry.clone()),
            shards: Shards::start(Arc::clone(&log), lease, tasks),
            log,
            metrics,
            running: Arc::default(),
            faults: Arc::default(),
            changed: watch::Sender::new(0),
            tasks: tasks.clone(),
        };
        let mut view = control.watch();
        let declared: Vec<_> = view.borrow_and_update().channels.values().map(Arc::clone).collect();
        for entry in declared {
            let name = entry.channel.name.clone();
            // One channel in trouble must not keep the others from their users; it is tried again below.
            if let Err(error) = channels.start_channel(entry).await {
                tracing::error!(channel = %name, %error, "the channel cannot be started");
            }
        }
        let (follow, stopping) = (channels.clone(), tasks.stopping());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = follow.follow(view) => {}
            }
        });
        Ok(channels)
    }

    /// The codecs of registered schemas.
    pub const fn codecs(&self) -> &Codecs {
        &self.codecs
    }

    /// The log.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// All channels at work.
    pub fn all(&self) -> Vec<Arc<Running>> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.values().map(Arc::clone).collect()
    }

    /// Why channels that control declares are not at work.
    pub fn faults(&self) -> HashMap<ChannelName, String> {
        self.faults.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A channel at work.
    pub fn get(&self, name: &ChannelName) -> Option<Arc<Running>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    /// A channel that control declares, once it is at work; `None` when that takes longer than `limit`.
    pub async fn wait_for(&self, name: &ChannelName, limit: Duration) -> Option<Arc<Running>> {
        let mut changed = self.changed.subscribe();
        let found = changed.wait_for(|_| self.get(name).is_some());
        drop(tokio::time::timeout(limit, found).await);
        self.get(name)
    }

    async fn follow(&self, mut view: watch::Receiver<Arc<crate::control::view::ControlView>>) {
        let mut retry = Retry::default();
        loop {
            let declared: Vec<_> = view.borrow_and_update().channels.values().map(Arc::clone).collect();
            let mut failed = false;
            for entry in declared.into_iter().filter(|entry| self.get(&entry.channel.name).is_none()) {
                let name = entry.channel.name.clone();
                if let Err(error) = self.start_channel(entry).await {
                    tracing::error!(channel = %name, %error, "the channel cannot be started");
                    failed = true;
                }
            }
            if failed {
                tokio::time::sleep(retry.next_wait()).await;
            } else {
                retry.reset();
                if view.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    async fn start_channel(&self, entry: Arc<ChannelEntry>) -> Result<(), StartError> {
        // What was started is stopped again when a later partition cannot be.
        let running = self.tasks.child();
        let audience = Arc::default();
        let outcome = self.start_partitions(&entry, &audience, &running).await;
        let (feeds, materialised) = match outcome {
            Ok(started) => started,
            Err(error) => {
                running.stop();
                let mut faults = self.faults.write().unwrap_or_else(PoisonError::into_inner);
                faults.insert(entry.channel.name.clone(), error.to_string());
                return Err(error);
            }
        };
        let name = entry.channel.name.clone();
        self.faults.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
        let readings = Arc::new(Semaphore::new(READINGS_AT_ONCE));
        let running = Arc::new(Running { entry, audience, feeds, materialised, readings });
        self.running.write().unwrap_or_else(PoisonError::into_inner).insert(name, running);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    async fn start_partitions(
        &self,
        entry: &ChannelEntry,
        audience: &Arc<Audience>,
        running: &Tasks,
    ) -> Result<Started, StartError> {
        let channel = &entry.channel;
        let log_topic = TopicSpec {
            name: channel.log_topic(),
            partitions: channel.partitions,
            cleanup: Cleanup::Retention(DEFAULT_RETENTION),
        };
        let state_topic = TopicSpec {
            name: channel.state_topic(),
            partitions: channel.partitions,
            cleanup: Cleanup::Compaction { min_lag: BOOTSTRAP_BOUND },
        };
        self.log.ensure_topic(&log_topic).await?;
        self.log.ensure_topic(&state_topic).await?;
        let mut feeds = Vec::new();
        let mut materialised = Vec::new();
        for partition in Partition::all(channel.partitions) {
            let source = Source {
                log: Arc::clone(&self.log),
                codecs: self.codecs.clone(),
                topic: log_topic.name.clone(),
                partition,
                kind: channel.kind,
                log_id: entry.log_id,
            };
            self.begin_partition(&source, &state_topic.name).await?;
            let end = self.log.bounds(&source.topic, source.partition).await?.next;
            // The log behind the state's checkpoint is folded already: a start reads only what came after it.
            let reach = Reach::new(&state_topic.name, source.partition);
            let standing = stand(&source, &reach).await?;
            let meter = self.metrics.reader(&channel.name);
            let feed = Feed::at(source, (standing.fold, standing.position), Arc::clone(audience), meter);
            let (reader, shards) = (Arc::clone(&feed), self.shards.clone());
            let standing = reach.clone();
            self.run_until_stopped(running, async move { read_for_ever(&reader, &standing).await });
            let (read, reached) = (Arc::clone(&feed), reach.clone());
            self.run_until_stopped(running, async move { shards.materialise(read, reached).await });
            materialised.push(reach);
            feeds.push((feed, end));
        }
        // Nobody is answered from a table that stands in the past: a replaying tail is no tail yet.
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
    async fn begin_partition(&self, source: &Source, state_topic: &str) -> Result<(), StartError> {
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
                table: Table::default(),
            };
            let record = marks::record(Kind::Checkpoint, &checkpoint.encode());
            self.log.append(&source.topic, source.partition, vec![record]).await?;
        }
        Ok(())
    }
}

/// Where a reader begins that knows nothing yet: where the state ends.
async fn stand(source: &Source, reach: &Reach) -> Result<Standing, materialise::StateError> {
    let last = reach.look(source.log.as_ref()).await?;
    let standing = Standing::at(source, last).await?;
    // The provider is told before anybody has written it into the state.
    if standing.is_overtaken {
        reach.advance(Known { to: standing.position, overtaken: Some(standing.position) });
    }
    Ok(standing)
}

/// Reads a partition. A router that was cut off for longer than the log holds its records begins again where the state
/// ends.
async fn read_for_ever(feed: &Feed, reach: &Reach) {
    let mut retry = Retry::default();
    loop {
        let wanted = feed.run().await;
        let (topic, partition) = (&feed.source().topic, feed.source().partition);
        match stand(feed.source(), reach).await {
            Ok(Standing { fold, position, .. }) if position > wanted => {
                tracing::warn!(%topic, %partition, %wanted, %position, "retention has passed this router; it reads on where the state ends");
                retry.reset();
                feed.move_to(fold, position);
            }
            outcome => {
                let wait = retry.next_wait();
                let error = outcome.err().map(|error| error.to_string());
                tracing::error!(%topic, %partition, %wanted, ?error, ?wait, "retention has passed this router");
                feed.fail(ReaderError::TooOld { wanted });
                tokio::time::sleep(wait).await;
            }
        }
    }
}

//! All channels of a router: started when control declares them, read until it stops.
//!
//! Owns which channels are at work, why others are not, and the retries of those.

pub mod start;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use event_log::Log;
use platform::retry::Retry;
use platform::shutdown::Tasks;
use reading::codecs::Codecs;
use schemas::ids::{ChannelName, Partition};
use schemas::per_partition::PerPartition;
use tokio::sync::{Semaphore, watch};

use self::start::ChannelStartError;
use crate::control::view::ChannelEntry;
use crate::fanout::FanOut;
use crate::fanout::observer::Feed;
use crate::lease::service::Lease;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::codecs::RegistryCodecs;
use crate::state::shards::Shards;
use crate::state::tenure::StateWatch;

/// How long a request waits for a channel that was declared a moment ago.
const START_WAIT: Duration = Duration::from_secs(5);

/// A channel that control declares, but that this router cannot serve now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this router does not serve channel {channel} now: {why}")]
pub struct NotAtWork {
    channel: ChannelName,
    why: String,
}

/// A channel at work.
pub struct Running {
    pub entry: Arc<ChannelEntry>,
    /// The subscriptions at the partitions' tails.
    pub fan_out: Arc<FanOut>,
    /// The feed of each partition.
    pub feeds: PerPartition<Arc<Feed>>,
    /// How far the state of each partition has got.
    pub materialised: PerPartition<StateWatch>,
    /// Bounds the state's readings by its owner's agents.
    pub readings: Arc<Semaphore>,
}

/// Readings of one channel's state by its owner at once: one agent reopens, another may read too.
pub const READINGS_AT_ONCE: usize = 2;

impl Running {
    /// Each partition's feed, and how far its state has got.
    pub fn partitions(&self) -> impl Iterator<Item = (&Arc<Feed>, &StateWatch)> {
        self.feeds.values().zip(self.materialised.values())
    }

    /// The feed of a partition.
    pub fn feed(&self, partition: Partition) -> Option<&Arc<Feed>> {
        self.feeds.get(partition)
    }
}

/// All channels of a router; clones share them.
#[derive(Clone)]
pub struct Channels {
    log: Arc<dyn Log>,
    codecs: Arc<dyn Codecs>,
    shards: Shards,
    metrics: Metrics,
    running: Arc<RwLock<HashMap<ChannelName, Arc<Running>>>>,
    /// Why a channel is not at work.
    faults: Arc<RwLock<HashMap<ChannelName, String>>>,
    changed: watch::Sender<u64>,
    tasks: Tasks,
}

impl Channels {
    /// Starts the declared channels, now and later.
    pub async fn start(
        log: Arc<dyn Log>,
        registry: &Registry,
        lease: Lease,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, ChannelStartError> {
        let control = registry.control();
        let channels = Self {
            codecs: Arc::new(RegistryCodecs::new(registry.clone())),
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
            // One faulty channel must not keep the others from their users; it is tried again below.
            if let Err(error) = channels.start_channel(entry).await {
                tracing::error!(channel = %name, %error, "the channel cannot be started");
            }
        }
        let follow = channels.clone();
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = follow.follow(view) => {}
            }
        });
        Ok(channels)
    }

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

    /// A channel that control declares, once it is at work: waits for one that was declared a moment ago.
    pub async fn at_work(&self, name: &ChannelName) -> Result<Arc<Running>, NotAtWork> {
        let mut changed = self.changed.subscribe();
        let found = changed.wait_for(|_| self.get(name).is_some());
        drop(tokio::time::timeout(START_WAIT, found).await);
        self.get(name).ok_or_else(|| {
            let why = self.faults().remove(name).unwrap_or_else(|| "it is being started".to_owned());
            NotAtWork { channel: name.clone(), why }
        })
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

    async fn start_channel(&self, entry: Arc<ChannelEntry>) -> Result<(), ChannelStartError> {
        // If a later partition cannot start, those already started are stopped.
        let running = self.tasks.child();
        let fan_out = Arc::default();
        let outcome = self.start_partitions(&entry, &fan_out, &running).await;
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
        let running = Arc::new(Running { entry, fan_out, feeds, materialised, readings });
        self.running.write().unwrap_or_else(PoisonError::into_inner).insert(name, running);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }
}

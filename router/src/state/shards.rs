//! Which router writes which part of the state: a fixed number of shards, each with one fenced writer.
//!
//! Owns when tenures begin and end. A tenure begins by fencing the previous holder, and ends with its first failed
//! commit or if the lease gives the shard to another router. Fencing gives safety; the choice of holder only liveness.

use std::sync::Arc;
use std::time::Duration;

use event_log::{CommitError, Log};
use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::ids::Partition;
use tokio::sync::watch;

use super::materialise::{Materialiser, StateError};
use super::tenure::{StateWatch, Tenure};
use crate::fanout::observer::Feed;
use crate::lease::service::Lease;

/// Each has a transactional id of its own; fixed, so that ids do not grow with channels.
const SHARDS: usize = 8;
/// The lease is checked at least this often: no event reports that a holder is silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shards of a router; clones share them.
#[derive(Clone)]
pub struct Shards {
    log: Arc<dyn Log>,
    lease: Lease,
    tenures: Arc<Vec<watch::Sender<Option<Arc<Tenure>>>>>,
}

impl Shards {
    /// Takes and gives up shards as the lease decides, until `tasks` stop.
    pub fn start(log: Arc<dyn Log>, lease: Lease, tasks: &Tasks) -> Self {
        let tenures = Arc::new((0..SHARDS).map(|_| watch::Sender::new(None)).collect());
        let shards = Self { log, lease, tenures };
        for shard in 0..SHARDS {
            let holder = shards.clone();
            let stopping = tasks.stopping();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stopping => {}
                    () = holder.hold(shard) => {}
                }
            });
        }
        shards
    }

    async fn hold(&self, shard: usize) {
        let Some(holder) = self.tenures.get(shard) else { return };
        let mut retry = Retry::default();
        loop {
            self.until_held(shard, true).await;
            let writer = match self.log.open_writer(&format!("dit.state.{shard}")).await {
                Ok(writer) => writer,
                Err(error) => {
                    let wait = retry.next_wait();
                    tracing::error!(shard, %error, ?wait, "the shard's writer cannot be opened");
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            tracing::debug!(shard, "holding a shard of the state");
            let tenure = Arc::new(Tenure::new(writer));
            holder.send_replace(Some(Arc::clone(&tenure)));
            let is_ours = tokio::select! {
                biased;
                () = tenure.until_over() => true,
                () = self.until_held(shard, false) => false,
            };
            holder.send_replace(None);
            tenure.end();
            match is_ours {
                true => tokio::time::sleep(retry.next_wait()).await,
                false => retry.reset(),
            }
        }
    }

    async fn until_held(&self, shard: usize, wanted: bool) {
        let mut changes = self.lease.changes();
        while self.lease.holds_shard(shard) != wanted {
            match &mut changes {
                Some(changes) => drop(tokio::time::timeout(LOOK_EVERY, changes.changed()).await),
                None => std::future::pending().await,
            }
        }
    }

    /// Materialises a partition whenever this router holds its shard.
    pub async fn materialise(&self, feed: Arc<Feed>, state: StateWatch) {
        let Some(holder) = self.tenures.get(shard_of(state.topic(), feed.source().partition)) else {
            return;
        };
        let mut holder = holder.subscribe();
        let mut retry = Retry::default();
        loop {
            let Ok(held) = holder.wait_for(Option::is_some).await.map(|tenure| tenure.clone()) else {
                return;
            };
            let Some(tenure) = held else { continue };
            let work = async {
                let stand = Materialiser::stand(Arc::clone(&feed), Arc::clone(&tenure), state.clone());
                stand.await?.run().await
            };
            let ended = tokio::select! {
                biased;
                ended = work => ended,
                () = tenure.until_over() => Ok(()),
            };
            match ended {
                Ok(()) => {
                    retry.reset();
                    // The holder changes right after its tenure ends: waits for that.
                    let left =
                        |now: &Option<Arc<Tenure>>| now.as_ref().is_none_or(|now| !Arc::ptr_eq(now, &tenure));
                    if holder.wait_for(left).await.is_err() {
                        return;
                    }
                }
                Err(StateError::Commit(CommitError::Fenced)) => {
                    tracing::warn!(topic = state.topic(), "another router writes this state now");
                }
                Err(error) => {
                    let wait = retry.next_wait();
                    tracing::error!(topic = state.topic(), %error, ?wait, "the state cannot be written");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

fn shard_of(topic: &str, partition: Partition) -> usize {
    let hash = topic
        .bytes()
        .fold(partition.index(), |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
    hash % SHARDS
}

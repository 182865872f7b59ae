//! The running lease: beats at intervals and after every change of control, and the reader of all beats.
//!
//! Owns the `leases` topic. An embedded log has none: the log's lock makes its one process *sole*.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_log::{Cleanup, Log, ReadError, TopicError, TopicSpec};
use platform::clock;
use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::{Notify, watch};

use super::board::{Beat, Board, FORMAT, Incarnation, LEASE, Moment};
use crate::control::service::{self as control, Control};

const TOPIC: &str = "dit.leases";
const PARTITION: Partition = Partition::new(0);
/// Four beats to a lease: one may be lost, one late.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Beats are useless after their lease; an hour is for investigations.
const RETENTION: Duration = Duration::from_hours(1);
const READ_BYTES: usize = 64 * 1024;
const READ_WAIT: Duration = Duration::from_secs(5);
/// How long a start waits for its first lease, and a revocation for the beat that names it.
const BEAT_LIMIT: Duration = Duration::from_secs(20);

/// A revocation is in force here, but perhaps not at every other router.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the change is in force at this router, but could not be confirmed for the other routers within {} s; send the same request again",
    BEAT_LIMIT.as_secs()
)]
pub struct NotSettled;

/// A router's lease; clones share it.
#[derive(Clone)]
pub struct Lease(Option<Arc<Shared>>);

struct Shared {
    log: Arc<dyn Log>,
    control: Control,
    name: String,
    incarnation: Incarnation,
    board: Mutex<Board>,
    /// Grows with every beat that is read.
    version: watch::Sender<u64>,
    /// The newest beat's log time, and when it was read.
    clock: Mutex<Option<(Millis, Moment)>>,
    kick: Notify,
}

impl Lease {
    /// The lease of the only process of a log.
    pub const fn sole() -> Self {
        Self(None)
    }

    /// Beats and reads until `tasks` stop; returns when it holds its first lease.
    pub async fn start(
        log: Arc<dyn Log>,
        control: Control,
        name: &str,
        tasks: &Tasks,
    ) -> Result<Self, TopicError> {
        let cleanup = Cleanup::Retention(RETENTION);
        log.ensure_topic(&TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup }).await?;
        let random = platform::random::id().map_err(|e| TopicError::Unavailable(e.to_string()))?;
        let incarnation = Incarnation::new(random);
        let begin = log.bounds(TOPIC, PARTITION).await?.next;
        let shared = Arc::new(Shared {
            log,
            control,
            name: name.to_owned(),
            board: Mutex::new(Board::new(incarnation.clone(), clock::since_boot())),
            incarnation,
            version: watch::Sender::new(0),
            clock: Mutex::default(),
            kick: Notify::new(),
        });
        let stopping = tasks.stopping();
        let beater = Arc::clone(&shared);
        let reader = Arc::clone(&shared);
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = beater.beat_for_ever() => {}
                () = reader.read_for_ever(begin) => {}
            }
        });
        let lease = Self(Some(Arc::clone(&shared)));
        let first = shared.until(|board, now| board.may_send(shared.applied(), now));
        if tokio::time::timeout(BEAT_LIMIT, first).await.is_err() {
            let why = format!("no beat came back within {} s", BEAT_LIMIT.as_secs());
            return Err(TopicError::Unavailable(why));
        }
        shared.look_at_control().await?;
        Ok(lease)
    }

    /// Whether this router may hand over data now, having applied control up to `applied`.
    pub fn holds(&self, applied: Offset) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.lock().may_send(applied, clock::since_boot()))
    }

    /// Notifies when the lease may have changed; `None` where it never does.
    pub fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.0.as_ref().map(|shared| shared.version.subscribe())
    }

    /// Whether a shard of the state is this router's to write.
    pub fn holds_shard(&self, shard: usize) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.lock().holds_shard(shard, clock::since_boot()))
    }

    /// Returns when no router hands over data any more under control from before `applied`.
    pub async fn settle(&self, applied: Offset) -> Result<(), NotSettled> {
        let Some(shared) = &self.0 else { return Ok(()) };
        shared.kick.notify_one();
        let told = shared.until(|board, _| board.has_told(applied));
        tokio::time::timeout(BEAT_LIMIT, told).await.map_err(|_| NotSettled)?;
        let (waiting, blind_until) = {
            let board = shared.lock();
            (board.behind(applied), board.blind_until())
        };
        tokio::time::sleep(blind_until.saturating_sub(clock::since_boot())).await;
        shared.until_passed(&waiting, applied).await;
        Ok(())
    }

    /// The time by the log's clock, or by ours while no beat was read.
    pub fn log_time(&self) -> Millis {
        let Some(shared) = &self.0 else { return clock::now() };
        match *shared.clock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, seen)) => {
                let passed = clock::since_boot().saturating_sub(seen);
                at.plus(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
            }
            None => clock::now(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self) -> Offset {
        self.control.view().applied
    }

    /// Bounds the control offset that unread beats may name.
    async fn look_at_control(&self) -> Result<(), TopicError> {
        let end = self.log.bounds(control::TOPIC, PARTITION).await?.next;
        self.lock().control_ends(end);
        Ok(())
    }

    /// Returns when the board says so.
    async fn until(&self, is_met: impl Fn(&Board, Moment) -> bool) {
        let mut version = self.version.subscribe();
        while !is_met(&self.lock(), clock::since_boot()) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    async fn until_passed(&self, waiting: &HashMap<Incarnation, Moment>, applied: Offset) {
        let mut version = self.version.subscribe();
        loop {
            let now = clock::since_boot();
            let last = {
                let board = self.lock();
                board.waits_for(waiting, applied, now).into_iter().map(|(_, until)| until).max()
            };
            let Some(last) = last else { return };
            // The wait for a router that does not beat any more ends with its lease.
            drop(tokio::time::timeout(last.saturating_sub(now), version.changed()).await);
        }
    }

    async fn beat_for_ever(&self) {
        let mut view = self.control.watch();
        let mut number = 0;
        loop {
            number += 1;
            let applied = view.borrow_and_update().applied;
            self.lock().begin(number, clock::since_boot());
            if let Err(error) = self.beat(number, applied).await {
                tracing::warn!(%error, "a beat could not be appended");
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(BEAT_EVERY) => {}
                () = self.kick.notified() => {}
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn beat(&self, number: u64, applied: Offset) -> Result<(), String> {
        let router = self.name.clone();
        let incarnation = self.incarnation.clone();
        let beat = Beat { format: FORMAT, router, incarnation, number, applied };
        let value = serde_json::to_vec(&beat).map_err(|e| e.to_string())?;
        let record =
            Record { key: Some(self.name.clone().into_bytes()), value: Some(value), headers: Vec::new() };
        // An outcome that takes longer than the lease is of no use: the next beat must not wait for it.
        let append = tokio::time::timeout(LEASE, self.log.append(TOPIC, PARTITION, vec![record])).await;
        append.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|e| e.to_string())
    }

    async fn read_for_ever(&self, mut next: Offset) {
        let mut retry = Retry::new(Duration::from_millis(50), LEASE);
        loop {
            let batch = match self.log.read(TOPIC, PARTITION, next, READ_BYTES, READ_WAIT).await {
                Ok(batch) => batch,
                Err(error) => {
                    let wait = retry.next_wait();
                    tracing::error!(%error, ?wait, "the beats cannot be read");
                    tokio::time::sleep(wait).await;
                    if let ReadError::BeforeFirst { first, .. } = error {
                        self.lock().missed(clock::since_boot());
                        match self.look_at_control().await {
                            Ok(()) => next = first,
                            Err(error) => tracing::error!(%error, "control's end is not known"),
                        }
                    }
                    continue;
                }
            };
            retry.reset();
            next = batch.next;
            for stored in batch.records {
                let value = stored.record.value.unwrap_or_default();
                match serde_json::from_slice::<Beat>(&value) {
                    Ok(beat) => self.take(beat, stored.logged_at),
                    Err(error) => tracing::warn!(offset = %stored.offset, %error, "a beat cannot be read"),
                }
            }
        }
    }

    fn take(&self, beat: Beat, logged_at: Millis) {
        let now = clock::since_boot();
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((logged_at, now));
        if self.lock().take(beat, now, &self.name) {
            // A router that was just killed causes this warning once; a live one again and again.
            tracing::warn!(router = %self.name, "another router uses this name; give each router its own certificate, or its own --instance");
        }
        self.version.send_modify(|version| *version += 1);
    }
}

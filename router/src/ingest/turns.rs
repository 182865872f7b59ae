//! Turns: the order in which a partition's batches are appended.
//!
//! Owns the end of a partition's last append. Until that append is read back, the next batch must continue its end; from
//! then on, it must continue the table (docs/protocol.md, 2). It decides nothing about what counts: the log does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use schemas::epoch_table::{Entry, EpochEnd, Writer};
use schemas::ids::{AgentId, LogId, Offset, Partition};
use tokio::sync::{Mutex, MutexGuard, Semaphore, watch};
use tokio::time::Instant;

use crate::fanout::observer::Feed;

/// How long a batch waits for the one before it, which travels beside it on the same connection. An agent whose batch
/// is answered without it sends it again.
const WAIT_FOR_TURN: Duration = Duration::from_secs(5);
/// Batches of a partition that wait for one before them: more than an agent has under way. Each holds its records.
const MAX_WAITING: usize = 4;

type ByPartition = HashMap<(LogId, Partition), Arc<Turn>>;

/// The partitions' turns, made when they are first asked for.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<SyncMutex<ByPartition>>);

impl Turns {
    pub(super) fn of(&self, feed: &Feed) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry((feed.source().log_id, feed.source().partition)).or_default())
    }
}

/// The last append of a partition whose outcome is known.
#[derive(Debug, Clone, Copy)]
struct Appended {
    end: EpochEnd,
    last: Offset,
}

/// What moves the batches that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Moves {
    appends: u64,
    /// Attempts that ended without an append: nobody waits for them any more.
    failures: u64,
}

/// How a batch fits the end of the log, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It continues it.
    Next,
    /// Something before it is missing in its epoch.
    Ahead,
    /// It would not count, whatever comes before it.
    Beside,
}

/// Whose turn it is in one partition.
pub(super) struct Turn {
    /// Whoever appends holds it until the log has answered, or until its request is given up.
    appended: Mutex<Option<Appended>>,
    moves: watch::Sender<Moves>,
    waiting: Semaphore,
}

impl Default for Turn {
    fn default() -> Self {
        let waiting = Semaphore::new(MAX_WAITING);
        Self { appended: Mutex::default(), moves: watch::Sender::default(), waiting }
    }
}

impl Turn {
    /// Begins an attempt to append a batch.
    pub(super) fn attempt(&self) -> Attempt<'_> {
        Attempt { turn: self, failures: self.moves.borrow().failures, is_appended: false }
    }

    async fn hold(&self) -> Held<'_> {
        Held { appended: self.appended.lock().await }
    }
}

/// An attempt to append a batch. One that is dropped without its append is a failure: what waits for it is told.
pub(super) struct Attempt<'t> {
    turn: &'t Turn,
    /// The failures before it.
    failures: u64,
    is_appended: bool,
}

impl<'t> Attempt<'t> {
    /// Waits for the turn of its batch, while the feed reads on. `None` when the batch would not count, by what is
    /// read: what is before it has failed, does not come, or is not what the log has.
    pub(super) async fn wait(&self, batch: &Batch<'_>) -> Option<Held<'t>> {
        let mut moves = self.turn.moves.subscribe();
        let mut tail = batch.feed.watch();
        let deadline = Instant::now() + WAIT_FOR_TURN;
        let mut slot = None;
        loop {
            tail.mark_unchanged();
            moves.mark_unchanged();
            let held = tokio::time::timeout_at(deadline, self.turn.hold()).await.ok()?;
            match held.fit(batch) {
                Fit::Next => return Some(held),
                Fit::Beside => return None,
                Fit::Ahead if moves.borrow().failures != self.failures => return None,
                Fit::Ahead => drop(held),
            }
            if slot.is_none() {
                slot = Some(self.turn.waiting.try_acquire().ok()?);
            }
            tokio::select! {
                biased;
                _ = moves.changed() => {}
                _ = tail.changed() => {}
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    /// How many appends there were.
    pub(super) fn appends(&self) -> u64 {
        self.turn.moves.borrow().appends
    }

    /// The turn of its batch, if it is its turn by what is read, and the reader has passed an end of the log that was
    /// asked for after so many appends.
    pub(super) async fn take(&self, batch: &Batch<'_>, appends: u64) -> Option<Held<'t>> {
        let mut held = self.turn.hold().await;
        if self.appends() == appends {
            // The last append is read back, or the log has lost it.
            *held.appended = None;
        }
        (held.fit(batch) == Fit::Next).then_some(held)
    }

    /// The batch is in the log: its epoch ends there now, and its last record has this offset.
    pub(super) fn appended(mut self, mut held: Held<'_>, end: EpochEnd, last: Offset) {
        *held.appended = Some(Appended { end, last });
        self.is_appended = true;
        self.turn.moves.send_modify(|moves| moves.appends += 1);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_appended {
            self.turn.moves.send_modify(|moves| moves.failures += 1);
        }
    }
}

/// A batch that waits.
pub(super) struct Batch<'b> {
    pub(super) feed: &'b Feed,
    pub(super) writer: Writer,
    pub(super) agent: &'b AgentId,
    /// The end of its epoch before it.
    pub(super) continues: EpochEnd,
}

/// The turn of one batch; the next one's comes when this is dropped.
pub(super) struct Held<'t> {
    appended: MutexGuard<'t, Option<Appended>>,
}

impl Held<'_> {
    fn fit(&self, batch: &Batch<'_>) -> Fit {
        let tail = batch.feed.tail();
        // Until the last append is read back, the table is older than it.
        let unread = self.appended.filter(|appended| tail.next <= appended.last);
        let entry = tail.fold.table.entry(&batch.writer).filter(|entry| entry.agent == *batch.agent);
        match unread.map(|appended| appended.end).or_else(|| entry.map(Entry::end)) {
            Some(end) if end == batch.continues => Fit::Next,
            Some(end) if end.epoch == batch.continues.epoch && end.next < batch.continues.next => Fit::Ahead,
            Some(_) | None => Fit::Beside,
        }
    }
}

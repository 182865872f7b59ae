//! The tail of one partition: read once, shared by all followers near it.
//!
//! Owns the ring of recent chunks and the publication of the fold. The ring is bounded: a follower that falls behind it
//! reads the log at its own pace.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::retry::Retry;
use schemas::ids::{Offset, Partition};
use tokio::sync::watch;

use crate::behind::Behind;
use crate::checkpoints::Checkpoints;
use crate::chunk::{Chunk, Item, Note};
use crate::error::ReaderError;
use crate::fold::Fold;
use crate::pace::{Lead, Pace};
use crate::ring::RecentChunks;
use crate::source::PartitionSource;
use crate::tail::Tail;

/// How long one read waits for records.
const READ_WAIT: Duration = Duration::from_secs(5);

/// How the tail moves, for an observer that notifies followers.
#[derive(Debug)]
pub enum Move<'m, N> {
    /// To the end of a chunk.
    Chunk(&'m Chunk<N>),
    /// To another position, or to a fault: followers must check the tail themselves.
    Elsewhere,
    /// A fault is over, without new records.
    Recovered,
}

/// Counts of a chunk's records, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Changes that count.
    pub changes: u64,
    /// Records that cannot be read.
    pub parked: u64,
    /// Records that do not count.
    pub skipped: u64,
}

/// Gets each chunk before the followers of the partition do.
pub trait Observer: Send + Sync + 'static {
    /// Its note about a chunk.
    type Note: Note;

    /// The note of a chunk's items, if there is one.
    fn note(&self, partition: Partition, items: &[Item]) -> Option<Self::Note>;

    /// Called for each chunk that was read.
    fn read(&self, counts: Counts);

    /// Called when the tail moves: `step` moves it, and returns the tail before. The observer must call it once.
    fn moves(&self, partition: Partition, to: Move<'_, Self::Note>, step: &mut dyn FnMut() -> Arc<Tail>);
}

/// The shared tail of one partition.
pub struct Feed<O: Observer> {
    source: PartitionSource,
    ring: Mutex<RecentChunks<O::Note>>,
    behind: Behind<O::Note>,
    checkpoints: Checkpoints,
    pace: Pace,
    tail: watch::Sender<Arc<Tail>>,
    observer: O,
}

impl<O: Observer> Feed<O> {
    /// A feed whose tail begins at a known fold, from the state's checkpoint; [`Feed::run`] moves it.
    pub fn at(source: PartitionSource, fold: Fold, next: Offset, observer: O) -> Arc<Self> {
        let tail = watch::Sender::new(Arc::new(Tail { next, fold, changes: 0, fault: None }));
        Arc::new(Self {
            source,
            ring: Mutex::default(),
            behind: Behind::default(),
            checkpoints: Checkpoints::default(),
            pace: Pace::default(),
            tail,
            observer,
        })
    }

    /// The source that the feed reads.
    pub const fn source(&self) -> &PartitionSource {
        &self.source
    }

    /// The observer of its chunks.
    pub const fn observer(&self) -> &O {
        &self.observer
    }

    /// The tail, to be watched.
    pub fn watch(&self) -> watch::Receiver<Arc<Tail>> {
        self.tail.subscribe()
    }

    /// The end of the tail.
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.tail.borrow())
    }

    fn ring(&self) -> MutexGuard<'_, RecentChunks<O::Note>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk of the ring that holds an offset.
    pub fn chunk_at(&self, offset: Offset) -> Option<Arc<Chunk<O::Note>>> {
        self.ring().at(offset)
    }

    /// Reads until retention has passed the tail, and returns its offset; the caller then calls [`Feed::move_to`].
    /// After an error it first checks the partition's beginning: the partition may be another.
    pub async fn run(&self) -> Offset {
        let mut retry = Retry::default();
        let mut is_doubtful = false;
        loop {
            self.pace.keep(|position| self.ring().would_lose(position)).await;
            let tail = self.tail();
            let read = async {
                if is_doubtful {
                    self.source.check_begin().await?;
                }
                self.source.read_chunk(tail.fold.clone(), tail.next, READ_WAIT).await
            };
            match read.await {
                Ok(chunk) => {
                    retry.reset();
                    is_doubtful = false;
                    self.behind.age();
                    self.ring().age();
                    match chunk {
                        Some(chunk) => self.publish(chunk),
                        None => self.recover(),
                    }
                }
                Err(ReaderError::TooOld { wanted }) => return wanted,
                Err(error) => {
                    is_doubtful = true;
                    let wait = retry.next_wait();
                    let topic = &self.source.topic;
                    let partition = self.source.partition;
                    tracing::error!(%topic, %partition, %error, ?wait, "the partition cannot be read");
                    self.fail(error);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Lets the tail wait for a follower at a position, as long as the result is held.
    pub(crate) fn lead(&self, position: Offset) -> Lead {
        self.pace.lead(position)
    }

    /// Moves the tail to a later offset. A follower at an earlier one finds that retention has passed it.
    pub fn move_to(&self, fold: &Fold, next: Offset) {
        self.ring().clear();
        let to = |from: &Tail| Tail { next, fold: fold.clone(), changes: from.changes, fault: None };
        self.move_tail(Move::Elsewhere, &to);
    }

    /// Reads the chunk at an offset that the ring does not hold, and whose fold is known. Readers of the same stretch read
    /// it once; where several wait for it, the observer notes it for all of them, as it does at the tail.
    pub(crate) async fn read_behind(
        &self,
        fold: &Fold,
        offset: Offset,
    ) -> Result<Option<Arc<Chunk<O::Note>>>, ReaderError> {
        if let Some(chunk) = self.behind.at(offset) {
            return Ok(Some(chunk));
        }
        let turn = self.behind.turn(offset).await;
        if let Some(chunk) = self.behind.at(offset) {
            return Ok(Some(chunk));
        }
        let Some(mut chunk) = self.source.read_chunk(fold.clone(), offset, Duration::ZERO).await? else {
            return Ok(None);
        };
        let range = chunk.first..chunk.next;
        if turn.as_ref().is_some_and(|turn| turn.is_awaited(&range)) {
            chunk.note = self.observer.note(self.source.partition, &chunk.items);
        }
        let chunk = Arc::new(chunk);
        self.behind.keep(Arc::clone(&chunk));
        // Until the chunk is kept: the next reader would read it again.
        drop(turn);
        Ok(Some(chunk))
    }

    /// The turn to read at an offset behind the ring.
    #[cfg(test)]
    pub(crate) async fn turn_behind(&self, offset: Offset) -> crate::behind::Turn<'_> {
        self.behind.turn(offset).await.unwrap()
    }

    /// Where a reader begins at a checkpoint of a log that holds everything from `first` on: a fold, and the offset to read
    /// from.
    pub async fn at_checkpoint(
        &self,
        checkpoint: Offset,
        first: Offset,
    ) -> Result<(Fold, Offset), ReaderError> {
        self.checkpoints.at(&self.source, checkpoint, first).await
    }

    /// Where a reader begins at the first checkpoint that is still held: a fold, and the offset to read from.
    pub async fn earliest(&self) -> Result<(Fold, Offset), ReaderError> {
        self.checkpoints.earliest(&self.source).await
    }

    /// Sets the tail's fault.
    pub fn fail(&self, error: ReaderError) {
        self.checkpoints.forget();
        self.behind.forget();
        let fault = Some(Arc::new(error));
        self.move_tail(Move::Elsewhere, &|from| Tail { fault: fault.clone(), ..from.clone() });
    }

    /// Removes the fault: the partition can be read again.
    fn recover(&self) {
        if self.tail().fault.is_some() {
            self.move_tail(Move::Recovered, &|from| Tail { fault: None, ..from.clone() });
        }
    }

    fn move_tail(&self, to: Move<'_, O::Note>, next: &dyn Fn(&Tail) -> Tail) {
        self.observer.moves(self.source.partition, to, &mut || {
            let next = Arc::new(next(&self.tail()));
            self.tail.send_replace(next)
        });
    }

    fn publish(&self, mut chunk: Chunk<O::Note>) {
        chunk.note = self.observer.note(self.source.partition, &chunk.items);
        let mut counts = Counts { changes: 0, parked: 0, skipped: chunk.skipped };
        for item in &chunk.items {
            match item {
                Item::Block(block) => counts.changes += u64::try_from(block.count()).unwrap_or(u64::MAX),
                Item::Poison { offset, reason } => {
                    counts.parked += 1;
                    let topic = &self.source.topic;
                    let partition = self.source.partition;
                    tracing::error!(%topic, %partition, %offset, %reason, "parked a record that cannot be read");
                }
                Item::Resync { .. } => {}
            }
        }
        self.observer.read(counts);
        let chunk = Arc::new(chunk);
        self.ring().push(Arc::clone(&chunk));
        self.move_tail(Move::Chunk(&chunk), &|from| {
            let next = chunk.next;
            let fold = chunk.fold.clone();
            Tail { next, fold, changes: from.changes + counts.changes, fault: None }
        });
    }
}

//! The tail of one partition: read once, shared by all who are near it.
//!
//! Owns the ring of recent chunks and the publication of the fold. Bounded: who falls behind the ring reads the
//! log at its own pace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::retry::Retry;
use schemas::ids::Offset;
use tokio::sync::watch;

use super::audience::{Audience, Called};
use super::fold::Fold;
use super::reader::{Chunk, Item, ReaderError, Source};
use super::tail::Tail;
use crate::metrics::ReaderMeter;

/// Chunks that the ring holds: with their size, what a partition costs in memory.
const RING_CHUNKS: usize = 8;
/// How long one read waits for records.
const READ_WAIT: Duration = Duration::from_secs(5);

/// The shared tail of one partition.
pub struct Feed {
    source: Source,
    ring: Mutex<VecDeque<Arc<Chunk>>>,
    tail: watch::Sender<Arc<Tail>>,
    audience: Arc<Audience>,
    meter: ReaderMeter,
}

impl Feed {
    /// A tail that stands at a fold that is known, from the state's checkpoint; [`Feed::run`] moves it.
    pub fn at(
        source: Source,
        (fold, next): (Fold, Offset),
        audience: Arc<Audience>,
        meter: ReaderMeter,
    ) -> Arc<Self> {
        let tail = watch::Sender::new(Arc::new(Tail { next, fold, changes: 0, fault: None }));
        Arc::new(Self { source, ring: Mutex::new(VecDeque::new()), tail, audience, meter })
    }

    /// What the partition is read from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// What its readers count.
    pub const fn meter(&self) -> &ReaderMeter {
        &self.meter
    }

    /// To be told when the tail moves.
    pub fn watch(&self) -> watch::Receiver<Arc<Tail>> {
        self.tail.subscribe()
    }

    /// Where the tail stands.
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.tail.borrow())
    }

    /// The chunk of the ring that holds an offset.
    pub fn chunk_at(&self, offset: Offset) -> Option<Arc<Chunk>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().find(|chunk| chunk.first <= offset && offset < chunk.next).map(Arc::clone)
    }

    /// Reads until retention has passed the tail: the place, which is [`Feed::move_to`]'s to mend. After an error the
    /// partition is looked at from its beginning first: it may be another.
    pub async fn run(&self) -> Offset {
        let mut retry = Retry::default();
        let mut is_doubtful = false;
        loop {
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
                    match chunk {
                        Some(chunk) => self.publish(chunk),
                        None => self.mend(),
                    }
                }
                Err(ReaderError::TooOld { wanted }) => return wanted,
                Err(error) => {
                    is_doubtful = true;
                    let wait = retry.next_wait();
                    let (topic, partition) = (&self.source.topic, self.source.partition);
                    tracing::error!(%topic, %partition, %error, ?wait, "the partition cannot be read");
                    self.fail(error);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// The tail goes on from a later place. Who follows from an earlier one finds that retention has passed it.
    pub fn move_to(&self, fold: Fold, next: Offset) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.move_tail(Called::All, |from| Tail { next, fold, changes: from.changes, fault: None });
    }

    /// It does not go on.
    pub fn fail(&self, error: ReaderError) {
        self.move_tail(Called::All, |from| Tail { fault: Some(Arc::new(error)), ..Tail::clone(from) });
    }

    /// It can be read, and nothing new is there.
    fn mend(&self) {
        if self.tail().fault.is_some() {
            self.move_tail(Called::Nobody, |from| Tail { fault: None, ..Tail::clone(from) });
        }
    }

    fn move_tail(&self, called: Called<'_>, to: impl FnOnce(&Tail) -> Tail) {
        self.audience.tell(self.source.partition, called, || {
            let to = Arc::new(to(&self.tail()));
            self.tail.send_replace(to)
        });
    }

    fn publish(&self, mut chunk: Chunk) {
        chunk.judged = self.audience.judge(&chunk.items);
        let (mut changes, mut parked) = (0, 0);
        for item in &chunk.items {
            changes += u64::from(matches!(item, Item::Change(_)));
            parked += u64::from(matches!(item, Item::Poison { .. }));
            if let Item::Poison { offset, reason } = item {
                let (topic, partition) = (&self.source.topic, self.source.partition);
                tracing::error!(%topic, %partition, %offset, %reason, "parked a record that cannot be read");
            }
        }
        self.meter.read(changes, parked, chunk.skipped);
        let chunk = Arc::new(chunk);
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.len() == RING_CHUNKS {
                ring.pop_front();
            }
            ring.push_back(Arc::clone(&chunk));
        }
        self.move_tail(Called::by(&chunk), |from| {
            let (next, fold) = (chunk.next, chunk.fold.clone());
            Tail { next, fold, changes: from.changes + changes, fault: None }
        });
    }
}

//! The chunks that readers behind the ring have read: when a router ends, all its streams read the same stretch of the log.
//!
//! Owns how many of them are kept, for how long, and that a chunk is read once, however many readers wait for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use schemas::ids::Offset;
use tokio::sync::MutexGuard;

use crate::chunk::{Chunk, Note};
use crate::ring::RecentChunks;

/// Readers of one place wait for each other. Those of different places do, too, one time in so many.
const TURNS: usize = 8;

pub(crate) struct Behind<N> {
    kept: Mutex<RecentChunks<N>>,
    turns: [Turns; TURNS],
}

#[derive(Default)]
struct Turns {
    one: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// A reader's turn to read at a place; the next one's comes when it is dropped.
pub(crate) struct Turn<'b> {
    _held: MutexGuard<'b, ()>,
    waiting: &'b AtomicUsize,
}

impl Turn<'_> {
    /// Whether other readers wait, most likely for what is read in this turn.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A reader that waits for its turn, or has given up.
struct Waiting<'b>(&'b AtomicUsize);

impl<'b> Waiting<'b> {
    fn among(waiting: &'b AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<N> Default for Behind<N> {
    fn default() -> Self {
        Self { kept: Mutex::default(), turns: Default::default() }
    }
}

impl<N: Note> Behind<N> {
    fn with<T>(&self, work: impl FnOnce(&mut RecentChunks<N>) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The turn to read at an offset. Who gets it looks again first: another reader may have read there.
    pub(crate) async fn turn(&self, offset: Offset) -> Option<Turn<'_>> {
        let index = usize::try_from(offset.get()).unwrap_or_default() % TURNS;
        let Turns { one, waiting } = self.turns.get(index)?;
        let _waits = Waiting::among(waiting);
        Some(Turn { _held: one.lock().await, waiting })
    }

    /// The newest chunk that holds an offset.
    pub(crate) fn at(&self, offset: Offset) -> Option<Arc<Chunk<N>>> {
        self.with(|kept| kept.newest(|chunk| chunk.first <= offset && offset < chunk.next))
    }

    /// Keeps a chunk that was read.
    pub(crate) fn keep(&self, chunk: Arc<Chunk<N>>) {
        self.with(|kept| kept.push(chunk));
    }

    /// Drops what is old.
    pub(crate) fn age(&self) {
        self.with(RecentChunks::age);
    }

    /// Forgets all chunks: the log may be another one.
    pub(crate) fn forget(&self) {
        self.with(RecentChunks::clear);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    struct Nothing;

    impl Note for Nothing {
        fn size(&self) -> usize {
            0
        }
    }

    #[tokio::test]
    async fn a_turn_knows_who_waits_for_it() {
        let behind = Behind::<Nothing>::default();
        let first = behind.turn(Offset::new(3)).await.unwrap();
        assert!(!first.is_awaited());
        {
            let mut second = std::pin::pin!(behind.turn(Offset::new(3)));
            tokio::select! {
                biased;
                _ = &mut second => panic!("there is one turn at a time"),
                () = ready(()) => {}
            }
            assert!(first.is_awaited());
            assert!(!behind.turn(Offset::new(4)).await.unwrap().is_awaited());
        }
        assert!(!first.is_awaited(), "who has given up does not wait");
    }
}

//! The chunks that readers behind the ring have read: when a router ends, all its streams read the same stretch of the log.
//!
//! Owns how many of them are kept, for how long, and that a chunk is read once, however many readers wait for it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard as SyncGuard, PoisonError};

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
    /// Where those who wait will read.
    waiting: Mutex<Vec<Offset>>,
}

impl Turns {
    fn waiting(&self) -> SyncGuard<'_, Vec<Offset>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader's turn to read at a place; the next one's comes when it is dropped.
pub(crate) struct Turn<'b> {
    _held: MutexGuard<'b, ()>,
    turns: &'b Turns,
}

impl Turn<'_> {
    /// Whether other readers wait for what is in a range.
    pub(crate) fn is_awaited(&self, range: &Range<Offset>) -> bool {
        self.turns.waiting().iter().any(|offset| range.contains(offset))
    }

    /// How many readers wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.turns.waiting().len()
    }
}

/// A reader that waits for its turn, or has given up.
struct Waiting<'b> {
    turns: &'b Turns,
    offset: Offset,
}

impl<'b> Waiting<'b> {
    fn among(turns: &'b Turns, offset: Offset) -> Self {
        turns.waiting().push(offset);
        Self { turns, offset }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.turns.waiting();
        if let Some(own) = waiting.iter().position(|offset| *offset == self.offset) {
            waiting.swap_remove(own);
        }
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
        let turns = self.turns.get(index)?;
        let _waits = Waiting::among(turns, offset);
        Some(Turn { _held: turns.one.lock().await, turns })
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
        let here = Offset::new(3)..Offset::new(5);
        assert!(!first.is_awaited(&here));
        {
            let mut second = std::pin::pin!(behind.turn(Offset::new(3)));
            tokio::select! {
                biased;
                _ = &mut second => panic!("there is one turn at a time"),
                () = ready(()) => {}
            }
            assert!(first.is_awaited(&here));
            let next = Offset::new(5)..Offset::new(9);
            assert!(!first.is_awaited(&next), "who waits for another place does not wait for this one");
            assert!(!behind.turn(Offset::new(4)).await.unwrap().is_awaited(&here));
        }
        assert!(!first.is_awaited(&here), "who has given up does not wait");
    }
}

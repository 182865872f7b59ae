//! The chunks that readers behind the ring have read: when a router ends, all its streams read the same stretch of the log.
//!
//! Owns how many of them are kept, for how long, and that a chunk is read once, however many readers wait for it.

use std::sync::{Arc, Mutex, PoisonError};

use schemas::ids::Offset;
use tokio::sync::MutexGuard;

use crate::chunk::{Chunk, Note};
use crate::ring::RecentChunks;

/// Readers of one place wait for each other. Those of different places do, too, one time in so many.
const TURNS: usize = 8;

pub(crate) struct Behind<N> {
    kept: Mutex<RecentChunks<N>>,
    turns: [tokio::sync::Mutex<()>; TURNS],
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
    pub(crate) async fn turn(&self, offset: Offset) -> Option<MutexGuard<'_, ()>> {
        let index = usize::try_from(offset.get()).unwrap_or_default() % TURNS;
        Some(self.turns.get(index)?.lock().await)
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

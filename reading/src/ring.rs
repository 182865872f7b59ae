//! The chunks of a partition that its followers share: the last ones, and those that were read again.
//!
//! Owns how much of them is kept, and how long. A follower that is further behind reads the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use schemas::ids::Offset;
use tokio::time::Instant;

use crate::chunk::{CHUNK_BYTES, Chunk, Note};

/// Bytes that are kept, with the places of the changes and what the observer notes: a follower that waits for a commit of
/// the state, or for its consumer, finds what came meanwhile.
const KEPT_BYTES: usize = 6 * CHUNK_BYTES;
/// Chunks that are kept: where changes come one by one, a chunk holds one change.
pub(crate) const KEPT_CHUNKS: usize = 2_048;
/// How long a chunk is kept: a consumer that has lost its router is back by then. What has come to rest takes no memory.
pub(crate) const KEPT_FOR: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct RecentChunks<N> {
    /// In the order in which they came.
    chunks: VecDeque<Recent<N>>,
    bytes: usize,
}

#[derive(Debug)]
struct Recent<N> {
    came: Instant,
    bytes: usize,
    chunk: Arc<Chunk<N>>,
}

impl<N> Default for RecentChunks<N> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), bytes: 0 }
    }
}

impl<N: Note> RecentChunks<N> {
    /// Adds the next chunk. The oldest go, but never the new one.
    pub(crate) fn push(&mut self, chunk: Arc<Chunk<N>>) {
        self.age();
        let bytes = chunk.size();
        self.bytes += bytes;
        self.chunks.push_back(Recent { came: Instant::now(), bytes, chunk });
        while self.chunks.len() > 1 && (self.bytes > KEPT_BYTES || self.chunks.len() > KEPT_CHUNKS) {
            self.drop_oldest();
        }
    }

    /// Drops what is old.
    pub(crate) fn age(&mut self) {
        while self.chunks.front().is_some_and(|oldest| oldest.came.elapsed() >= KEPT_FOR) {
            self.drop_oldest();
        }
        if self.chunks.is_empty() {
            self.chunks.shrink_to_fit();
        }
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.chunks.pop_front().map_or(0, |oldest| oldest.bytes);
    }

    /// The number of the chunk that holds an offset, where each begins at the end of the one before it.
    fn find(&self, offset: Offset) -> Option<usize> {
        let number = self.chunks.partition_point(|recent| recent.chunk.next <= offset);
        self.chunks.get(number).filter(|recent| recent.chunk.first <= offset).map(|_| number)
    }

    /// The chunk that holds an offset.
    pub(crate) fn at(&self, offset: Offset) -> Option<Arc<Chunk<N>>> {
        self.chunks.get(self.find(offset)?).map(|recent| Arc::clone(&recent.chunk))
    }

    /// Whether one more chunk, as large as the largest, would push the one that holds this offset out.
    pub(crate) fn would_lose(&self, offset: Offset) -> bool {
        let Some(number) = self.find(offset) else { return false };
        let largest = self.chunks.iter().map(|recent| recent.bytes).max().unwrap_or(0);
        let from_there: usize = self.chunks.iter().skip(number).map(|recent| recent.bytes).sum();
        from_there + largest > KEPT_BYTES || self.chunks.len() - number >= KEPT_CHUNKS
    }

    /// The last chunk that meets a condition.
    pub(crate) fn newest(&self, is_wanted: impl Fn(&Chunk<N>) -> bool) -> Option<Arc<Chunk<N>>> {
        let mut chunks = self.chunks.iter().rev().map(|recent| &recent.chunk);
        chunks.find(|chunk| is_wanted(chunk)).map(Arc::clone)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

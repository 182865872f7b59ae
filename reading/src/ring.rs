//! The ring: the last chunks of a partition, which its followers share.
//!
//! Owns how much of them is kept. A follower that is further behind reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use schemas::ids::Offset;

use crate::chunk::{CHUNK_BYTES, Chunk, Note};

/// Bytes of a ring, with the places of its changes and what the observer notes: a follower that waits for a commit of
/// the state, or for its consumer, finds what came meanwhile.
const RING_BYTES: usize = 6 * CHUNK_BYTES;
/// Chunks of a ring: where changes come one by one, a chunk holds one change, and costs more than the change.
pub(crate) const RING_CHUNKS: usize = 128;

#[derive(Debug)]
pub(crate) struct Ring<N> {
    chunks: VecDeque<Arc<Chunk<N>>>,
    bytes: usize,
}

impl<N> Default for Ring<N> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), bytes: 0 }
    }
}

impl<N: Note> Ring<N> {
    /// Adds the next chunk. The oldest go, but never the new one.
    pub(crate) fn push(&mut self, chunk: Arc<Chunk<N>>) {
        self.bytes += chunk.size();
        self.chunks.push_back(chunk);
        while self.chunks.len() > 1 && (self.bytes > RING_BYTES || self.chunks.len() > RING_CHUNKS) {
            self.bytes -= self.chunks.pop_front().map_or(0, |oldest| oldest.size());
        }
    }

    /// The chunk that holds an offset.
    pub(crate) fn at(&self, offset: Offset) -> Option<Arc<Chunk<N>>> {
        let behind = self.chunks.partition_point(|chunk| chunk.next <= offset);
        self.chunks.get(behind).filter(|chunk| chunk.first <= offset).map(Arc::clone)
    }

    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}

//! A folded part of a partition, which all followers of the partition share.
//!
//! Owns the shape. The observer's note is kept with the chunk, and is dropped with it.

use std::sync::Arc;

use schemas::ids::Offset;

use crate::fold::Fold;
use crate::located::LocatedChange;

/// Bytes of the log in one chunk; this bounds memory, and the time until a reader can do anything else.
pub const CHUNK_BYTES: usize = 512 * 1024;
/// A chunk with so many items ends at its block: a located change takes some 400 bytes, however small its datum is.
pub const CHUNK_ITEMS: usize = 4_000;

/// An item of the log for readers, in addition to the fold.
#[derive(Debug, Clone)]
pub enum Item {
    /// A change event that counts.
    Change(Arc<LocatedChange>),
    /// A record that counts but cannot be read: it is parked with its reason, and nothing of it is delivered.
    Poison { offset: Offset, reason: String },
    /// Every reader must start over.
    Resync { offset: Offset, reason: String },
}

/// A folded part of a partition; `N` is the observer's note.
#[derive(Debug)]
pub struct Chunk<N> {
    pub first: Offset,
    /// Where the next one begins.
    pub next: Offset,
    /// In the log's order. A block is never in two chunks.
    pub items: Vec<Item>,
    /// Records that do not count.
    pub skipped: u64,
    /// The fold at `next`.
    pub fold: Fold,
    /// The observer's note; `None` if the chunk was read for only one follower.
    pub note: Option<N>,
}

//! A folded part of a partition, which all followers of the partition share.
//!
//! Owns the shape. The observer's note is kept with the chunk, and is dropped with it.

use schemas::ids::Offset;

use crate::fold::Fold;
use crate::located::LocatedBlock;

/// Bytes of the log in one chunk; this bounds memory, and the time until a reader can do anything else.
pub const CHUNK_BYTES: usize = 512 * 1024;
/// A chunk with so many changes ends at its block: a change takes some 70 bytes besides its datum, and 4
/// for each field of an image.
pub const CHUNK_CHANGES: usize = 4_000;

/// An item of the log for readers, in addition to the fold.
#[derive(Debug)]
pub enum Item {
    /// A block of changes that counts.
    Block(LocatedBlock),
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
    /// In the log's order.
    pub items: Vec<Item>,
    /// Records that do not count.
    pub skipped: u64,
    /// The fold at `next`.
    pub fold: Fold,
    /// The observer's note; `None` if the chunk was read for only one follower.
    pub note: Option<N>,
}

/// An observer's note about a chunk.
pub trait Note: Send + Sync + 'static {
    /// Bytes of memory that it takes.
    fn size(&self) -> usize;
}

impl<N: Note> Chunk<N> {
    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        let of_item = |item: &Item| match item {
            Item::Block(block) => block.size(),
            Item::Poison { reason, .. } | Item::Resync { reason, .. } => reason.len(),
        };
        let items = self.items.capacity() * size_of::<Item>();
        size_of::<Self>()
            + self.fold.size()
            + items
            + self.items.iter().map(of_item).sum::<usize>()
            + self.note.as_ref().map_or(0, Note::size)
    }
}

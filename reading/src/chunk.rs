//! A stretch of a partition, folded, as all who follow the partition share it.
//!
//! Owns the shape. What an observer has noted of the chunk travels with it, and is dropped with it.

use std::sync::Arc;

use schemas::ids::Offset;

use crate::fold::Fold;
use crate::located::LocatedChange;

/// Bytes of the log in one chunk: bounds memory and the time between two looks at anything else.
pub const CHUNK_BYTES: usize = 512 * 1024;

/// What readers are told of, beside the fold.
#[derive(Debug, Clone)]
pub enum Item {
    /// A change event that counts.
    Change(Arc<LocatedChange>),
    /// A record that counts but cannot be read: it is parked with its reason, and delivered to nobody.
    Poison { offset: Offset, reason: String },
    /// Everybody starts over.
    Resync { offset: Offset, reason: String },
}

/// A stretch of a partition, folded; `N` is what an observer notes of it.
#[derive(Debug)]
pub struct Chunk<N> {
    pub first: Offset,
    /// Where the next one begins.
    pub next: Offset,
    /// In offset order.
    pub items: Vec<Item>,
    /// Records that do not count.
    pub skipped: u64,
    /// The fold at `next`.
    pub fold: Fold,
    /// The observer's note; none where the chunk was read for one follower alone.
    pub note: Option<N>,
}

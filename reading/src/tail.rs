//! Where the tail of a partition stands.
//!
//! Owns what is told of it; who moves it is the feed.

use std::sync::Arc;

use schemas::ids::Offset;

use crate::error::ReaderError;
use crate::fold::Fold;

/// Where the tail stands.
#[derive(Debug, Clone)]
pub struct Tail {
    /// The first offset that is not folded.
    pub next: Offset,
    /// The fold there.
    pub fold: Fold,
    /// How many changes came before it, counted from some place.
    pub changes: u64,
    /// Why it does not go on.
    pub fault: Option<Arc<ReaderError>>,
}

impl Tail {
    /// Why nothing can be told of the partition before a person has done something.
    pub fn lost(&self) -> Option<Arc<ReaderError>> {
        self.fault.clone().filter(|fault| matches!(**fault, ReaderError::LostTopic { .. }))
    }
}

//! The position and state of a partition's tail.
//!
//! Owns the tail's description; only the feed moves it.

use std::sync::Arc;

use schemas::ids::Offset;

use crate::error::ReaderError;
use crate::fold::Fold;

/// The end of the tail.
#[derive(Debug, Clone)]
pub struct Tail {
    /// The first offset that is not folded.
    pub next: Offset,
    /// The fold there.
    pub fold: Fold,
    /// How many changes came before `next`, counted from the feed's start.
    pub changes: u64,
    /// Why the tail does not move.
    pub fault: Option<Arc<ReaderError>>,
}

impl Tail {
    /// The fault, if the topic is lost: nothing is known of the partition until a person has acted.
    pub fn lost(&self) -> Option<Arc<ReaderError>> {
        self.fault.clone().filter(|fault| matches!(**fault, ReaderError::LostTopic { .. }))
    }
}

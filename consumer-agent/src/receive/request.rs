//! A person's request that a replica is reconciled with its part of the register now.
//!
//! Owns only the request's flag: one task gives it, another takes it. Clones share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Clone, Default)]
pub struct ReconcileRequest(Arc<AtomicBool>);

impl ReconcileRequest {
    pub fn give(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes it, if it was given.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Acquire)
    }
}

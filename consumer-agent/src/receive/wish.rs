//! A person's wish that a replica is compared with its part of the register now.
//!
//! Owns nothing but the word, given in one place and taken in another. Clones share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The wish.
#[derive(Debug, Clone, Default)]
pub struct Wish(Arc<AtomicBool>);

impl Wish {
    /// Gives the word.
    pub fn give(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes it, if it was given.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Acquire)
    }
}

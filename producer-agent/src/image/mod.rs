//! The images: what the agent last said of each key.
//!
//! Owns the narrow store trait, its sled form and its twin in memory. The images follow the outbox: a fold
//! carries the outbox position that it reflects. They hold only what can be rebuilt.

pub mod memory;
pub mod sled_store;

/// A change of one key's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChange {
    pub key: String,
    /// The image after; `None` removes the key.
    pub after: Option<Vec<u8>>,
}

/// Why the images cannot be used. They are then set aside and rebuilt from the channel's state.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store refused or panicked.
    #[error("the image store at {path} cannot be used: {problem}")]
    Store { path: String, problem: String },
    /// Its disk is full. What was opened is of no use any more; it is opened again once there is room.
    #[error("the image store at {path} cannot be written: its disk is full")]
    Full { path: String },
    /// Written by a newer version.
    #[error("the image store at {path} has format {found}; use a newer dit")]
    NewerFormat { path: String, found: u32 },
}

/// Images by key, and the outbox position that they reflect.
pub trait ImageStore: Send + Sync {
    /// The image of a key.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ImageError>;
    /// Applies changes and moves the position, together.
    fn apply(&self, changes: &[ImageChange], position: u64) -> Result<(), ImageError>;
    /// The first outbox position that is not reflected.
    fn position(&self) -> Result<u64, ImageError>;
    /// How many keys have an image.
    fn count(&self) -> Result<u64, ImageError>;
    /// All images in key order, until `each` says stop.
    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError>;
    /// Forgets every image: they are about to be rebuilt.
    fn clear(&self) -> Result<(), ImageError>;
    /// Makes what was applied survive a crash.
    fn sync(&self) -> Result<(), ImageError>;
}

//! The images: the last contents of each key that the agent put into its outbox.
//!
//! Owns the narrow store trait, its form on the disk and its twin in memory. The images follow the outbox: each fold stores
//! the outbox position that they reflect. They hold only data that can be rebuilt.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;

pub mod disk_store;
mod last_changes;
pub mod memory;
pub mod packed;
mod page;
mod page_files;
mod page_index;
mod pages;
mod young;

/// A change of one key's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageChange<'c> {
    pub key: &'c str,
    /// The image after; `None` removes the key.
    pub after: Option<&'c [u8]>,
}

/// Why the images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store refused or panicked. A store that cannot be opened is set aside and rebuilt from the channel's state.
    #[error("the image store at {path} cannot be used: {problem}")]
    Store { path: String, problem: String },
    /// The disk is full. The opened store is then of no use; it is opened again once there is room.
    #[error("the image store at {path} cannot be written: its disk is full")]
    Full { path: String },
    /// The process may not open as many files as the store has.
    #[error(
        "the image store at {path} cannot be opened: this process has too many files open (raise LimitNOFILE of the unit, or `ulimit -n`)"
    )]
    TooManyFiles { path: String },
    /// Another process has it open, or has only just ended.
    #[error("the image store at {path} is open in another process")]
    Locked { path: String },
    /// Written by a newer version.
    #[error("the image store at {path} has format {found}; use a newer dit")]
    NewerFormat { path: String, found: u32 },
}

impl ImageError {
    /// An error of the system at a path. A full disk, or too few files, is no damage.
    fn of_io(path: &Path, error: &io::Error) -> Self {
        let has_number = |number: Errno| error.raw_os_error() == Some(number.raw_os_error());
        let problem = error.to_string();
        let path = path.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full { path },
            _ if has_number(Errno::MFILE) || has_number(Errno::NFILE) => Self::TooManyFiles { path },
            _ => Self::Store { path, problem },
        }
    }
}

/// Images by key, and the outbox position that they reflect.
pub trait ImageStore: Send + Sync {
    /// The images of these keys, in this order. Many keys at once cost less than one by one.
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError>;
    /// Applies changes in order and moves the position, together.
    fn apply(&self, changes: &[ImageChange<'_>], position: u64) -> Result<(), ImageError>;
    /// The first outbox position that is not reflected.
    fn position(&self) -> Result<u64, ImageError>;
    /// How many keys have an image.
    fn count(&self) -> Result<u64, ImageError>;
    /// Visits all images in key order, until `each` returns `false`.
    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError>;
    /// Removes all images and the position, before a rebuild.
    fn clear(&self) -> Result<(), ImageError>;
    /// Makes applied changes survive a crash.
    fn sync(&self) -> Result<(), ImageError>;
    /// Begins to make applied changes survive a crash, and does not wait for it. While earlier ones are still on their way it
    /// begins nothing: call it again. What goes wrong is said by the next call.
    fn sync_behind(&self) -> Result<(), ImageError>;
    /// The outbox position up to which all changes survive a crash.
    fn synced(&self) -> Arc<AtomicU64>;
}

//! Why segment files cannot be used; each error names the file.

use std::path::{Path, PathBuf};

/// The version of the segment format; a binary refuses newer versions and names its own. With version 3, entries and
/// records became blocks; version 4 has no gaps, as the state became blocks. Each user says the oldest version that it
/// reads.
pub(super) const FORMAT: u16 = 4;

/// Why segment files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("{path}: {error}")]
    Io {
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// Written by a newer version.
    #[error("{path}: written in format {found}, this binary knows formats up to {FORMAT}; use a newer dit")]
    NewerFormat { path: PathBuf, found: u16 },
    /// Written by an older version, which nothing reads any more.
    #[error(
        "{path}: written in format {found}, this binary reads formats from {oldest} on; set the folder aside (docs/keeping.md says what follows)"
    )]
    OlderFormat {
        path: PathBuf,
        found: u16,
        /// The oldest that is read.
        oldest: u16,
    },
    /// Not a segment file of this kind.
    #[error("{path}: is not a dit {kind} file")]
    Foreign {
        path: PathBuf,
        /// What it should be.
        kind: String,
    },
    /// Bytes changed after they were written.
    #[error("{path}: damaged at byte {at}, and more follows; restore the file or set the folder aside")]
    Damaged {
        path: PathBuf,
        /// Byte within it.
        at: u64,
    },
    /// A segment is missing between two others.
    #[error("{path}: begins at {first}, but the segment before it ends at {expected}; a file is missing")]
    Gap {
        path: PathBuf,
        /// Its first position.
        first: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// An earlier sync failed: the store must be opened again before it writes.
    #[error("{path}: an earlier write failed; restart this process")]
    Poisoned { path: PathBuf },
    /// The record is larger than a frame may be; nothing was appended.
    #[error("a record of {size} bytes is larger than a segment takes ({limit})")]
    TooLarge {
        size: usize,
        /// The largest that is taken.
        limit: usize,
    },
    /// A position that was dropped or not written yet.
    #[error("position {wanted} is outside {first}..{next}")]
    OutOfRange {
        /// What was asked for.
        wanted: u64,
        /// The first held.
        first: u64,
        /// The next to be written.
        next: u64,
    },
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> SegmentError {
    let path = path.to_owned();
    move |error| SegmentError::Io { path, error }
}

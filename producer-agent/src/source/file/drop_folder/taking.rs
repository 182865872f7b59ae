//! One file that is being taken: read once, whole, into a copy that nobody else writes.
//!
//! Owns which file that was (device, inode, size, times) and that only this one is moved. A file that changed under reading
//! is not taken.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use platform::closed;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use sha2::{Digest, Sha256};

use super::DropError;

const CHUNK: usize = 256 * 1024;

/// A file as it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of what has this name now; none where that is nothing, or no file.
    pub(super) fn at(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| Self::of(&found))
    }

    /// When it was written last, in milliseconds since 1970.
    pub(super) const fn modified_ms(&self) -> i64 {
        self.modified.0.saturating_mul(1_000).saturating_add(self.modified.1 / 1_000_000)
    }

    /// Whether it is that file with that content; a rename changes only when it was changed.
    const fn is_still(&self, other: &Self) -> bool {
        self.device == other.device
            && self.inode == other.inode
            && self.size == other.size
            && self.modified.0 == other.modified.0
            && self.modified.1 == other.modified.1
    }
}

/// A file that was read.
#[derive(Debug)]
pub struct Taking {
    /// Where it was dropped.
    pub(super) original: PathBuf,
    pub(super) identity: Identity,
    /// What was read of it.
    copy: PathBuf,
    /// The SHA-256 of that in hexadecimal digits, where a mark tells one.
    pub(super) digest: Option<String>,
}

/// What came of reading a file.
#[derive(Debug)]
pub(super) enum Copied {
    /// It was read whole.
    Whole(Taking),
    /// It changed meanwhile: it is looked at again.
    Changed,
    /// It is not there any more, or no file.
    Gone,
}

/// Whether a file was moved; not, where somebody has taken it away just now.
pub(super) fn was_moved(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

impl Taking {
    /// Reads a file into `folder`; its digest is made where it is asked for, since that takes as long as reading.
    pub(super) fn read(original: &Path, folder: &Path, with_digest: bool) -> Result<Copied, DropError> {
        let wrong = |error: io::Error| DropError::at(original, error);
        // A link or a pipe that took the file's place is not followed, nor waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = match rustix::fs::openat(CWD, original, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(Copied::Gone),
            Err(error) => return Err(wrong(error.into())),
        };
        let before = file.metadata().map_err(wrong)?;
        if !before.is_file() {
            return Ok(Copied::Gone);
        }
        let identity = Identity::of(&before);
        let copy = folder.join(original.file_name().unwrap_or_default());
        let into = |error: io::Error| DropError::at(&copy, error);
        let mut out = closed::create(&copy).map_err(into)?;
        let mut hash = with_digest.then(Sha256::new);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(wrong(error)),
            };
            let read = chunk.get(..length).unwrap_or_default();
            hash.iter_mut().for_each(|hash| hash.update(read));
            out.write_all(read).map_err(into)?;
        }
        out.flush().map_err(into)?;
        let after = Identity::of(&file.metadata().map_err(wrong)?);
        let is_same = after == identity && Identity::at(original) == Some(identity);
        if !is_same {
            std::fs::remove_file(&copy).map_err(into)?;
            return Ok(Copied::Changed);
        }
        Ok(Copied::Whole(Self {
            original: original.to_owned(),
            identity,
            copy,
            digest: hash.map(|hash| hex::encode(hash.finalize())),
        }))
    }

    /// What is to be read: it changes no more.
    pub fn path(&self) -> &Path {
        &self.copy
    }

    pub fn name(&self) -> String {
        self.original.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Puts it where it belongs. What was dropped is moved if it is still what was read; what came in its place stays, and
    /// the copy goes there instead.
    pub(super) fn put(self, target: &Path) -> Result<(), DropError> {
        let wrong = |error: io::Error| DropError::at(target, error);
        let is_there = Identity::at(&self.original) == Some(self.identity);
        if is_there && was_moved(std::fs::rename(&self.original, target)).map_err(wrong)? {
            if Identity::at(target).is_some_and(|found| found.is_still(&self.identity)) {
                return std::fs::remove_file(&self.copy).map_err(|error| DropError::at(&self.copy, error));
            }
            // Another file took its place just now: back with it, unless a still newer one stands there.
            let back = rustix::fs::renameat_with(CWD, target, CWD, &self.original, RenameFlags::NOREPLACE);
            if let Err(error) = back {
                tracing::warn!(file = %self.original.display(), %error, "a file was replaced before it was read");
            }
        }
        std::fs::rename(&self.copy, target).map_err(wrong)
    }

    /// It is not taken now: the copy goes, what was dropped stays.
    pub fn leave(self) {
        if let Err(error) = std::fs::remove_file(&self.copy) {
            tracing::warn!(path = %self.copy.display(), %error, "a copy could not be removed");
        }
    }
}

//! One file that is being taken: read once and whole, into a copy that no other program writes.
//!
//! Owns the file's identity (device, inode, size, times), and moves only that file. A file that changed while it was
//! read is not taken.

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

    /// Of the file that has this name now; `None` where there is no file.
    pub(super) fn at(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| Self::of(&found))
    }

    /// When it was written last, in milliseconds since 1970.
    pub(super) const fn modified_ms(&self) -> i64 {
        self.modified.0.saturating_mul(1_000).saturating_add(self.modified.1 / 1_000_000)
    }

    /// Whether it is that file with that content; `changed` is not compared: a rename changes it.
    pub(super) const fn is_still(&self, other: &Self) -> bool {
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
    /// The copy that was read.
    copy: PathBuf,
    /// The copy's SHA-256 in hexadecimal digits, where a mark states one.
    pub(super) digest: Option<String>,
}

/// The result of reading a file.
#[derive(Debug)]
pub(super) enum Copied {
    /// It was read whole.
    Whole(Taking),
    /// It changed meanwhile: it is looked at again.
    Changed,
    /// It was removed, or is no file.
    Gone,
}

/// Whether a file was moved; `false` where it was removed just before.
pub(super) fn was_moved(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

impl Taking {
    /// Reads a file into `folder`; computes its digest only where asked, since that takes as long as reading.
    pub(super) fn read(original: &Path, folder: &Path, with_digest: bool) -> Result<Copied, DropError> {
        let wrong = |error: io::Error| DropError::at(original, error);
        // If a link or a pipe replaced the file, it is neither followed nor waited for.
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

    /// The copy to read: it does not change any more.
    pub fn path(&self) -> &Path {
        &self.copy
    }

    pub fn name(&self) -> String {
        self.original.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Moves the dropped file to its target if it is still the file that was read. A file that replaced it stays, and
    /// the copy goes to the target instead.
    pub(super) fn put(self, target: &Path) -> Result<(), DropError> {
        let wrong = |error: io::Error| DropError::at(target, error);
        let is_there = Identity::at(&self.original) == Some(self.identity);
        if is_there && was_moved(std::fs::rename(&self.original, target)).map_err(wrong)? {
            if Identity::at(target).is_some_and(|found| found.is_still(&self.identity)) {
                return std::fs::remove_file(&self.copy).map_err(|error| DropError::at(&self.copy, error));
            }
            // Another file replaced it just now: move that back, unless a still newer one has its name.
            let back = rustix::fs::renameat_with(CWD, target, CWD, &self.original, RenameFlags::NOREPLACE);
            if let Err(error) = back {
                tracing::warn!(file = %self.original.display(), %error, "a file was replaced before it was read");
            }
        }
        std::fs::rename(&self.copy, target).map_err(wrong)
    }

    /// Does not take it now: removes the copy, and leaves the dropped file.
    pub fn leave(self) {
        if let Err(error) = std::fs::remove_file(&self.copy) {
            tracing::warn!(path = %self.copy.display(), %error, "a copy could not be removed");
        }
    }
}

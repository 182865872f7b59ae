//! A small file that is replaced as a whole: format version, checksum, contents; synced and renamed into place.
//!
//! Owns identity files, manifests and journals of one value. A read returns the written contents, or an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::error::{SegmentError, io_error};
use super::frame::{self, Found};

const FORMAT: u16 = 1;

/// Replaces the file's contents; afterwards they survive a crash.
pub fn write(disk: &dyn Disk, path: &Path, kind: &[u8; 4], contents: &[u8]) -> Result<(), SegmentError> {
    let mut bytes = kind.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    frame::put(&mut bytes, contents);
    replace(disk, path, &bytes)
}

/// Replaces a file of any form, synced and by rename.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), SegmentError> {
    let mut replacement = Replacement::begin(disk, path)?;
    replacement.append(bytes)?;
    replacement.commit().map(drop)
}

/// A new file that will replace another one in the same folder.
pub struct Replacement<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    fresh: PathBuf,
    file: Arc<dyn DiskFile>,
    is_committed: bool,
}

impl Drop for Replacement<'_> {
    /// Removes a file that was not committed.
    fn drop(&mut self) {
        if !self.is_committed {
            discard(self.disk, &self.fresh, self.file.as_ref());
        }
    }
}

/// Removes an unfinished file, or at least empties it.
pub(super) fn discard(disk: &dyn Disk, path: &Path, file: &dyn DiskFile) {
    if file.truncate(0).is_err() | disk.remove(path).is_err() {
        tracing::warn!(path = %path.display(), "a file that was being made could not be removed");
    }
}

impl<'d> Replacement<'d> {
    /// Begins an empty file.
    pub fn begin(disk: &'d dyn Disk, path: &Path) -> Result<Self, SegmentError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let file = disk.open(&fresh).map_err(io_error(&fresh))?;
        file.truncate(0).map_err(io_error(&fresh))?;
        Ok(Self { disk, path: path.to_owned(), fresh, file, is_committed: false })
    }

    /// Appends some of the contents.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        self.file.append(bytes).map_err(io_error(&self.fresh))
    }

    /// Syncs the file and renames it over the old one; returns it, still open.
    pub fn commit(mut self) -> Result<Arc<dyn DiskFile>, SegmentError> {
        self.file.sync().map_err(io_error(&self.fresh))?;
        self.disk.rename(&self.fresh, &self.path).map_err(io_error(&self.path))?;
        self.is_committed = true;
        if let Some(dir) = self.path.parent() {
            self.disk.sync_dir(dir).map_err(io_error(dir))?;
        }
        Ok(Arc::clone(&self.file))
    }
}

/// The file's contents; `None` when there is no file.
pub fn read(disk: &dyn Disk, path: &Path, kind: &[u8; 4]) -> Result<Option<Vec<u8>>, SegmentError> {
    if !disk.exists(path) {
        return Ok(None);
    }
    let file = disk.open(path).map_err(io_error(path))?;
    let length = file.length().map_err(io_error(path))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(frame::MAX_PAYLOAD)];
    let got = file.read_at(&mut bytes, 0).map_err(io_error(path))?;
    bytes.truncate(got);
    let foreign = || SegmentError::Foreign {
        path: path.to_owned(),
        kind: String::from_utf8_lossy(kind).trim().to_owned(),
    };
    let (head, rest) = bytes.split_at_checked(6).ok_or_else(foreign)?;
    let (found_kind, version) = head.split_at(4);
    if found_kind != kind {
        return Err(foreign());
    }
    let found = version.try_into().map_or(0, u16::from_le_bytes);
    if found > FORMAT {
        return Err(SegmentError::NewerFormat { path: path.to_owned(), found });
    }
    match frame::parse(rest) {
        Found::Payload(contents) => Ok(Some(contents.to_vec())),
        _ => Err(SegmentError::Damaged { path: path.to_owned(), at: 6 }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_disk::MemoryDisk;
    use super::*;

    #[test]
    fn contents_come_back_or_the_damage_is_named() {
        let disk = MemoryDisk::new();
        let path = Path::new("/d/identity");
        assert!(read(&disk, path, b"iden").unwrap().is_none());
        write(&disk, path, b"iden", b"one").unwrap();
        write(&disk, path, b"iden", b"two").unwrap();
        disk.crash(|_| 0);
        assert_eq!(read(&disk, path, b"iden").unwrap(), Some(b"two".to_vec()));
        assert!(matches!(read(&disk, path, b"mani"), Err(SegmentError::Foreign { .. })));
        disk.damage(path, 15);
        assert!(matches!(read(&disk, path, b"iden"), Err(SegmentError::Damaged { .. })));
        disk.damage(path, 5);
        assert!(matches!(read(&disk, path, b"iden"), Err(SegmentError::NewerFormat { .. })));
    }
}

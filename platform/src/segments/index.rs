//! The sparse index of a segment: where some of its frames begin. It is in memory, and in a file next to the segment.
//!
//! Owns the file `<segment>.idx`, which saves the scan at the next start. It covers a prefix of the segment that was
//! synced before the index was written. It can always be made again: a missing, damaged or unfitting index is ignored.

use std::path::{Path, PathBuf};

use super::checked_file;
use super::disk::Disk;
use super::error::{SegmentError, io_error};

const KIND: &[u8; 4] = b"sidx";
/// Bytes between two entries: a lookup reads less than one read of the file returns anyway.
const STEP: u64 = 64 * 1024;

/// (position, byte) of some frames, in order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index(Vec<(u64, u64)>);

impl Index {
    /// The index of a segment whose first frame, `first`, begins at byte `at`.
    pub(super) fn new(first: u64, at: u64) -> Self {
        Self(vec![(first, at)])
    }

    /// Where the first frame begins.
    pub(super) fn begin(&self) -> (u64, u64) {
        self.0.first().copied().unwrap_or_default()
    }

    /// Notes that a frame begins here, if it is far enough from the last entry.
    pub(super) fn note(&mut self, position: u64, at: u64) {
        if self.0.last().is_none_or(|(_, last)| at - last >= STEP) {
            self.0.push((position, at));
        }
    }

    /// The nearest known frame at or before a position.
    pub(super) fn before(&self, position: u64) -> (u64, u64) {
        let entry = self.0.partition_point(|(known, _)| *known <= position).saturating_sub(1);
        self.0.get(entry).copied().unwrap_or_else(|| self.begin())
    }

    /// Forgets the entries beyond a byte.
    pub(super) fn cut(&mut self, length: u64) {
        self.0.retain(|(_, at)| *at <= length);
    }
}

/// The contents of an index file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saved {
    /// Positions in the prefix.
    pub(super) count: u64,
    /// Bytes of the prefix.
    pub(super) length: u64,
    pub(super) index: Index,
}

fn path_of(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// Writes a segment's index file.
pub(super) fn save(disk: &dyn Disk, segment: &Path, saved: &Saved) -> Result<(), SegmentError> {
    let mut bytes = Vec::with_capacity(16 * (saved.index.0.len() + 1));
    for (left, right) in std::iter::once(&(saved.count, saved.length)).chain(&saved.index.0) {
        bytes.extend_from_slice(&left.to_le_bytes());
        bytes.extend_from_slice(&right.to_le_bytes());
    }
    checked_file::write(disk, &path_of(segment), KIND, &bytes)
}

/// Reads a segment's index file, if it exists and is consistent.
pub(super) fn load(disk: &dyn Disk, segment: &Path) -> Option<Saved> {
    let bytes = checked_file::read(disk, &path_of(segment), KIND).ok()??;
    let mut pairs = bytes.chunks_exact(16).map(|pair| {
        let (left, right) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        (number(left), number(right))
    });
    let (count, length) = pairs.next()?;
    let entries: Vec<_> = pairs.collect();
    let grows = entries.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
    let fits = entries.last().is_some_and(|(_, at)| *at <= length);
    (grows && fits).then_some(Saved { count, length, index: Index(entries) })
}

/// Removes a segment's index file, before the saved prefix changes.
pub(super) fn remove(disk: &dyn Disk, segment: &Path) -> Result<(), SegmentError> {
    let path = path_of(segment);
    if disk.exists(&path) { disk.remove(&path).map_err(io_error(&path)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::memory_disk::MemoryDisk;
    use super::*;

    #[test]
    fn what_was_saved_comes_back_and_anything_else_is_left_aside() {
        let disk = MemoryDisk::new();
        let segment = Path::new("/s/1.seg");
        assert_eq!(load(&disk, segment), None);
        let mut index = Index::new(7, 20);
        index.note(8, 21);
        index.note(9_000, 20 + STEP);
        assert_eq!(index.before(8_999), (7, 20));
        assert_eq!(index.before(9_001), (9_000, 20 + STEP));
        let saved = Saved { count: 9_999, length: 20 + 2 * STEP, index };
        save(&disk, segment, &saved).unwrap();
        assert_eq!(load(&disk, segment), Some(saved));
        disk.damage(Path::new("/s/1.idx"), 40);
        assert_eq!(load(&disk, segment), None);
        remove(&disk, segment).unwrap();
        remove(&disk, segment).unwrap();
    }
}

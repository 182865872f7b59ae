//! One segment file: magic, format version, a header of its user's, then frames.
//!
//! Owns opening and scanning. A damaged frame at the end of the last segment is a torn write and is cut off; anywhere
//! else it is reported as damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checked_file::Replacement;
use super::disk::{Disk, DiskFile};
use super::error::{FORMAT, SegmentError, io_error};
use super::frame;
use super::index::{self, Index, Saved};
use super::reader::Reader;

const MAGIC: &[u8; 4] = b"dit\x1f";

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: Vec<u8>,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) length: u64,
    pub(super) index: Index,
}

impl Segment {
    pub(super) fn file_name(first: u64) -> String {
        format!("{first:020}.seg")
    }

    pub(super) fn first_of(name: &str) -> Option<u64> {
        name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?.parse().ok()
    }

    /// The bytes that a file begins with.
    pub(super) fn prelude(kind: &[u8; 4], header: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(kind);
        frame::put(&mut bytes, header);
        bytes
    }

    /// Makes a new file, synced together with its name; replaces an empty one.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        kind: &[u8; 4],
        first: u64,
        header: &[u8],
    ) -> Result<Self, SegmentError> {
        let path = dir.join(Self::file_name(first));
        index::remove(disk, &path)?;
        let bytes = Self::prelude(kind, header);
        // The file gets its name when it is whole: there is never a segment without its header.
        let mut fresh = Replacement::begin(disk, &path)?;
        fresh.append(&bytes)?;
        let file = fresh.commit()?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let index = Index::new(first, length);
        Ok(Self { path, file, header: header.to_vec(), first, count: 0, length, index })
    }

    /// Opens a file, and scans it from the end of its saved index on. `None` when its header is not whole. Returns how
    /// many bytes of a torn write it cut off.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        kind: &[u8; 4],
        oldest: u16,
        first: u64,
        is_last: bool,
    ) -> Result<Option<(Self, u64)>, SegmentError> {
        let file = disk.open(path).map_err(io_error(path))?;
        let total = file.length().map_err(io_error(path))?;
        let mut reader = Reader::new(file.as_ref(), path, 0);
        let prefix = reader.ensure(10)?.get(..10).map(<[u8]>::to_vec);
        let Some(prefix) = prefix else {
            return if is_last {
                Ok(None)
            } else {
                Err(SegmentError::Damaged { path: path.to_owned(), at: 0 })
            };
        };
        check_prefix(&prefix, path, kind, oldest)?;
        reader.advance(10);
        let header = match reader.next()? {
            Some(header) => header,
            None if is_last && reader.is_torn(total)? => return Ok(None),
            None => return Err(SegmentError::Damaged { path: path.to_owned(), at: 10 }),
        };
        let mut index = Index::new(first, reader.at);
        let mut count = 0;
        let saved = index::load(disk, path).filter(|saved| {
            saved.index.begin() == index.begin()
                && saved.length <= total
                && (is_last || saved.length == total)
        });
        match saved {
            Some(saved) => {
                (index, count) = (saved.index, saved.count);
                reader = Reader::new(file.as_ref(), path, saved.length);
            }
            // An index that does not fit now might seem to fit later.
            None => index::remove(disk, path)?,
        }
        while reader.next()?.is_some() {
            count += 1;
            index.note(first + count, reader.at);
        }
        let length = reader.at;
        if length < total && !(is_last && reader.is_torn(total)?) {
            return Err(SegmentError::Damaged { path: path.to_owned(), at: length });
        }
        if length < total {
            file.truncate(length).map_err(io_error(path))?;
        }
        if is_last {
            // The frames may not have reached the disk before the process ended, but they count from now on.
            file.sync().map_err(io_error(path))?;
        }
        let segment = Self { path: path.to_owned(), file, header, first, count, length, index };
        Ok(Some((segment, total - length)))
    }

    pub(super) const fn next_position(&self) -> u64 {
        self.first + self.count
    }

    /// Saves the index, so that the next start need not scan what is synced now.
    pub(super) fn save_index(&self, disk: &dyn Disk) -> Result<(), SegmentError> {
        let count = self.count;
        let length = self.length;
        let index = self.index.clone();
        index::save(disk, &self.path, &Saved { count, length, index })
    }

    /// Appends frames that were already put together; on failure the file is cut back.
    pub(super) fn append(&mut self, frames: &[u8], count: u64) -> Result<(), SegmentError> {
        if let Err(error) = self.file.append(frames) {
            let cut = self.file.truncate(self.length);
            return Err(io_error(&self.path)(cut.err().unwrap_or(error)));
        }
        self.index.note(self.next_position(), self.length);
        self.count += count;
        self.length += u64::try_from(frames.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Cuts off the frames from a position inside this segment on.
    pub(super) fn truncate_from(&mut self, disk: &dyn Disk, position: u64) -> Result<(), SegmentError> {
        index::remove(disk, &self.path)?;
        let (mut at, byte) = self.index.before(position);
        let mut reader = Reader::new(self.file.as_ref(), &self.path, byte);
        while at < position {
            if reader.next()?.is_none() {
                return Err(self.damaged(reader.at));
            }
            at += 1;
        }
        let length = reader.at;
        self.file.truncate(length).map_err(io_error(&self.path))?;
        self.file.sync().map_err(io_error(&self.path))?;
        self.length = length;
        self.count = position - self.first;
        self.index.cut(length);
        Ok(())
    }

    /// Gives frames from `from` (inside this segment) on to `take`, until that returns `false`.
    pub(super) fn read(
        &self,
        from: u64,
        mut take: impl FnMut(u64, Vec<u8>) -> bool,
    ) -> Result<(), SegmentError> {
        let (mut position, at) = self.index.before(from);
        let mut reader = Reader::new(self.file.as_ref(), &self.path, at);
        while position < self.next_position() {
            let Some(payload) = reader.next()? else { return Err(self.damaged(reader.at)) };
            if position >= from && !take(position, payload) {
                break;
            }
            position += 1;
        }
        Ok(())
    }

    fn damaged(&self, at: u64) -> SegmentError {
        SegmentError::Damaged { path: self.path.clone(), at }
    }
}

fn check_prefix(prefix: &[u8], path: &Path, kind: &[u8; 4], oldest: u16) -> Result<(), SegmentError> {
    let kind_text = || String::from_utf8_lossy(kind).trim().to_owned();
    let foreign = || SegmentError::Foreign { path: path.to_owned(), kind: kind_text() };
    let (magic, rest) = prefix.split_at_checked(4).ok_or_else(foreign)?;
    let (version, found_kind) = rest.split_at_checked(2).ok_or_else(foreign)?;
    if magic != MAGIC {
        return Err(foreign());
    }
    let found = version.try_into().map_or(0, u16::from_le_bytes);
    if found > FORMAT {
        return Err(SegmentError::NewerFormat { path: path.to_owned(), found });
    }
    if found_kind != kind {
        return Err(foreign());
    }
    if found < oldest {
        return Err(SegmentError::OlderFormat { path: path.to_owned(), found, oldest });
    }
    Ok(())
}

//! One segment file: magic, format version, a header of its user's, then frames.
//!
//! Owns scanning and the sparse index. A damaged frame at the end of the last segment is a torn write and is cut
//! off; anywhere else it is damage, and named.

use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::frame::{self, Found};

const MAGIC: &[u8; 4] = b"dit\x1f";
/// The version of the segment format; an older binary refuses a newer one by name.
const FORMAT: u16 = 1;
/// Bytes between two entries of the sparse index.
const INDEX_STEP: u64 = 16 * 1024;
const READ_STEP: usize = 256 * 1024;

/// Why segment files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Written by a newer version.
    #[error("{path}: written in format {found}, this binary knows formats up to {FORMAT}; use a newer dit")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// Not a segment file of this kind.
    #[error("{path}: is not a dit {kind} file")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: String,
    },
    /// Bytes changed after they were written.
    #[error("{path}: damaged at byte {at}, and more follows; restore the file or set the folder aside")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte within it.
        at: u64,
    },
    /// A segment is missing in between.
    #[error("{path}: begins at {first}, but the segment before it ends at {expected}; a file is missing")]
    Gap {
        /// The file.
        path: PathBuf,
        /// Its first position.
        first: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// An earlier failure to sync: nothing more is written until the store is opened again.
    #[error("{path}: an earlier write failed; the store must be opened again")]
    Poisoned {
        /// The directory.
        path: PathBuf,
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

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) header: Vec<u8>,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) length: u64,
    /// (position, byte) of some frames, in order.
    index: Vec<(u64, u64)>,
}

impl Segment {
    pub(super) fn file_name(first: u64) -> String {
        format!("{first:020}.seg")
    }

    pub(super) fn first_of(name: &str) -> Option<u64> {
        name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?.parse().ok()
    }

    /// A new file, synced with its name.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        kind: &[u8; 4],
        first: u64,
        header: &[u8],
    ) -> Result<Self, SegmentError> {
        let path = dir.join(Self::file_name(first));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(kind);
        frame::put(&mut bytes, header);
        let fail = || io_error(&path);
        let mut file = disk.open(&path).map_err(fail())?;
        file.truncate(0).map_err(fail())?;
        file.append(&bytes).map_err(fail())?;
        file.sync().map_err(fail())?;
        disk.sync_dir(dir).map_err(io_error(dir))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Self {
            path,
            file,
            header: header.to_vec(),
            first,
            count: 0,
            length,
            index: vec![(first, length)],
        })
    }

    /// An existing file, scanned. `None` when it was torn before its header was whole. Bytes cut off are counted.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        kind: &[u8; 4],
        first: u64,
        is_last: bool,
    ) -> Result<Option<(Self, u64)>, SegmentError> {
        let file = disk.open(path).map_err(io_error(path))?;
        let total = file.length().map_err(io_error(path))?;
        let mut reader = Reader { file: file.as_ref(), path, at: 0, buffer: Vec::new(), start: 0 };
        let prefix = reader.ensure(10)?.get(..10).map(<[u8]>::to_vec);
        let Some(prefix) = prefix else {
            return if is_last {
                Ok(None)
            } else {
                Err(SegmentError::Damaged { path: path.to_owned(), at: 0 })
            };
        };
        check_prefix(&prefix, path, kind)?;
        reader.advance(10);
        let header = match reader.next()? {
            Some(header) => header,
            None if is_last && reader.is_torn(total)? => return Ok(None),
            None => return Err(SegmentError::Damaged { path: path.to_owned(), at: 10 }),
        };
        let mut index = vec![(first, reader.at)];
        let mut count = 0;
        while reader.next()?.is_some() {
            count += 1;
            if index.last().is_none_or(|(_, at)| reader.at - at >= INDEX_STEP) {
                index.push((first + count, reader.at));
            }
        }
        let length = reader.at;
        if length < total && !(is_last && reader.is_torn(total)?) {
            return Err(SegmentError::Damaged { path: path.to_owned(), at: length });
        }
        let mut segment = Self { path: path.to_owned(), file, header, first, count, length, index };
        if length < total {
            segment.file.truncate(length).map_err(io_error(path))?;
            segment.file.sync().map_err(io_error(path))?;
        }
        Ok(Some((segment, total - length)))
    }

    pub(super) fn next_position(&self) -> u64 {
        self.first + self.count
    }

    /// Appends frames that were already put together; on failure the file is cut back.
    pub(super) fn append(&mut self, frames: &[u8], count: u64) -> Result<(), SegmentError> {
        if let Err(error) = self.file.append(frames) {
            let cut = self.file.truncate(self.length);
            return Err(io_error(&self.path)(cut.err().unwrap_or(error)));
        }
        if self.index.last().is_none_or(|(_, at)| self.length - at >= INDEX_STEP) {
            self.index.push((self.next_position(), self.length));
        }
        self.count += count;
        self.length += u64::try_from(frames.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Cuts off the frames from a position inside this segment on.
    pub(super) fn truncate_from(&mut self, position: u64) -> Result<(), SegmentError> {
        let mut length = self.index.first().map_or(0, |(_, at)| *at);
        self.read(self.first, |at, payload| {
            if at < position {
                length += u64::try_from(frame::HEAD + payload.len()).unwrap_or(u64::MAX);
            }
            at < position
        })?;
        self.file.truncate(length).map_err(io_error(&self.path))?;
        self.file.sync().map_err(io_error(&self.path))?;
        self.length = length;
        self.count = position - self.first;
        self.index.retain(|(_, at)| *at <= length);
        Ok(())
    }

    /// Frames from `from` (inside this segment) on, until `take` says enough.
    pub(super) fn read(
        &self,
        from: u64,
        mut take: impl FnMut(u64, Vec<u8>) -> bool,
    ) -> Result<(), SegmentError> {
        let entry = self.index.partition_point(|(position, _)| *position <= from).saturating_sub(1);
        let (mut position, at) = self.index.get(entry).copied().unwrap_or((self.first, self.length));
        let mut reader =
            Reader { file: self.file.as_ref(), path: &self.path, at, buffer: Vec::new(), start: at };
        while position < self.next_position() {
            let Some(payload) = reader.next()? else {
                return Err(SegmentError::Damaged { path: self.path.clone(), at: reader.at });
            };
            if position >= from && !take(position, payload) {
                break;
            }
            position += 1;
        }
        Ok(())
    }
}

fn check_prefix(prefix: &[u8], path: &Path, kind: &[u8; 4]) -> Result<(), SegmentError> {
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
    if found_kind == kind { Ok(()) } else { Err(foreign()) }
}

/// Reads frames one after another with few system calls.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    at: u64,
    buffer: Vec<u8>,
    /// The file's byte at which the buffer begins.
    start: u64,
}

impl Reader<'_> {
    fn advance(&mut self, count: usize) {
        self.at += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// At least `count` bytes from `at` on, if the file has them.
    fn ensure(&mut self, count: usize) -> Result<&[u8], SegmentError> {
        let skip = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        if self.buffer.len() < skip.saturating_add(count) {
            let wanted = count.max(READ_STEP);
            let mut fresh = vec![0; wanted];
            let got = self.file.read_at(&mut fresh, self.at).map_err(io_error(self.path))?;
            fresh.truncate(got);
            self.buffer = fresh;
            self.start = self.at;
        }
        let skip = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(skip..).unwrap_or_default())
    }

    /// The next whole frame's payload; `None` at the end or at something that is no frame.
    fn next(&mut self) -> Result<Option<Vec<u8>>, SegmentError> {
        let mut wanted = frame::HEAD;
        loop {
            let bytes = self.ensure(wanted)?;
            match frame::parse(bytes) {
                Found::Payload(payload) => {
                    let payload = payload.to_vec();
                    self.advance(frame::HEAD + payload.len());
                    return Ok(Some(payload));
                }
                Found::Short(needed) if bytes.len() < needed && wanted < needed => wanted = needed,
                Found::Short(_) | Found::Damaged => return Ok(None),
            }
        }
    }

    /// Whether what follows looks like a torn write: no whole frame stands anywhere behind this place.
    fn is_torn(&mut self, total: u64) -> Result<bool, SegmentError> {
        let length = usize::try_from(total - self.at).unwrap_or(usize::MAX).min(frame::MAX_PAYLOAD);
        let mut rest = vec![0; length];
        let got = self.file.read_at(&mut rest, self.at).map_err(io_error(self.path))?;
        rest.truncate(got);
        let follows = |start: usize| matches!(rest.get(start..).map(frame::parse), Some(Found::Payload(_)));
        Ok(!(1..rest.len()).any(follows))
    }
}

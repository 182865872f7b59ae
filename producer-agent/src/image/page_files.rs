//! Files that pages are appended to.
//!
//! Owns where a page is, its checksum, and how many bytes of each file are in use. A page is never changed where it is: its
//! successor is appended, and a file is removed as a whole. Bytes that no place names mean nothing: a crash may leave such.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::segments::disk::{Disk, DiskFile};

use super::ImageError;

/// A file is full at this size: small, so that one with few pages in use is soon copied.
pub(super) const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are appended together.
const APPENDED_BYTES: usize = 256 * 1024;
/// Files beyond twice those that are needed: so a small register is not copied each time.
const SPARE_FILES: u64 = 1;
/// Bytes of a place.
const PLACE_BYTES: usize = 24;

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u64,
    at: u64,
    length: u32,
    checksum: u32,
}

impl Place {
    /// As the index keeps it: file, offset, length and checksum, little-endian.
    pub(super) fn encode(self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        let (numbers, rest) = bytes.split_at_mut(16);
        let (file, at) = numbers.split_at_mut(8);
        let (length, checksum) = rest.split_at_mut(4);
        file.copy_from_slice(&self.file.to_le_bytes());
        at.copy_from_slice(&self.at.to_le_bytes());
        length.copy_from_slice(&self.length.to_le_bytes());
        checksum.copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// `None` for bytes that are no place.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (file, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let checksum = rest.try_into().ok()?;
        Some(Self {
            file: u64::from_le_bytes(*file),
            at: u64::from_le_bytes(*at),
            length: u32::from_le_bytes(*length),
            checksum: u32::from_le_bytes(checksum),
        })
    }
}

/// A file of pages.
struct PageFile {
    handle: Arc<dyn DiskFile>,
    bytes: u64,
    /// Bytes of pages that the index names.
    used: u64,
    is_synced: bool,
}

/// The files of a folder.
pub(super) struct PageFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Bytes at which a file is full.
    file_bytes: u64,
    files: BTreeMap<u64, PageFile>,
    /// The file that is appended to.
    current: Option<u64>,
    /// The number of the next file.
    next: u64,
    /// The youngest pages, which belong to the current file and are not written yet.
    unwritten: Vec<u8>,
}

fn file_name(number: u64) -> String {
    format!("{number:016}")
}

impl PageFiles {
    /// Opens the files that are there. What follows goes to a new one: the last may end in a torn write.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, file_bytes: u64) -> Result<Self, ImageError> {
        let io = failed(dir);
        disk.create_dir(dir).map_err(&io)?;
        // The folders themselves survive a crash.
        for parent in dir.ancestors().skip(1).take(2) {
            disk.sync_dir(parent).map_err(&io)?;
        }
        let mut files = BTreeMap::new();
        for number in disk.list(dir).map_err(&io)?.iter().filter_map(|name| name.parse().ok()) {
            let handle = disk.open(&dir.join(file_name(number))).map_err(&io)?;
            let bytes = handle.length().map_err(&io)?;
            files.insert(number, PageFile { handle, bytes, used: 0, is_synced: true });
        }
        let next = files.last_key_value().map_or(0, |(number, _)| number + 1);
        Ok(Self { disk, dir: dir.to_owned(), file_bytes, files, current: None, next, unwritten: Vec::new() })
    }

    /// Counts a page as in use.
    pub(super) fn hold(&mut self, place: Place) {
        if let Some(file) = self.files.get_mut(&place.file) {
            file.used += u64::from(place.length);
        }
    }

    /// Counts a page as in use no longer.
    pub(super) fn release(&mut self, place: Place) {
        if let Some(file) = self.files.get_mut(&place.file) {
            file.used = file.used.saturating_sub(u64::from(place.length));
        }
    }

    /// Appends a page. It can be read after [`Self::write`].
    pub(super) fn append(&mut self, page: &[u8]) -> Result<Place, ImageError> {
        let is_full = |file: &PageFile| file.bytes >= self.file_bytes;
        let number = match self.current.filter(|number| !self.files.get(number).is_none_or(is_full)) {
            Some(number) => number,
            None => self.begin()?,
        };
        let length = u32::try_from(page.len());
        let length = length.map_err(|_| failed(&self.dir)(io::ErrorKind::FileTooLarge.into()))?;
        let mut at = 0;
        if let Some(file) = self.files.get_mut(&number) {
            at = file.bytes;
            file.bytes += u64::from(length);
        }
        self.unwritten.extend_from_slice(page);
        if self.unwritten.len() >= APPENDED_BYTES {
            self.write()?;
        }
        Ok(Place { file: number, at, length, checksum: crc32fast::hash(page) })
    }

    /// Begins a file.
    fn begin(&mut self) -> Result<u64, ImageError> {
        self.write()?;
        let handle = self.disk.open(&self.dir.join(file_name(self.next))).map_err(failed(&self.dir))?;
        let number = self.next;
        self.files.insert(number, PageFile { handle, bytes: 0, used: 0, is_synced: false });
        self.next += 1;
        self.current = Some(number);
        Ok(number)
    }

    /// Writes the youngest pages. After an error their places are void, and a new file begins.
    pub(super) fn write(&mut self) -> Result<(), ImageError> {
        let Some(file) = self.current.and_then(|number| self.files.get_mut(&number)) else { return Ok(()) };
        file.is_synced &= self.unwritten.is_empty();
        let written = file.handle.append(&self.unwritten);
        self.unwritten.clear();
        if written.is_err() {
            self.current = None;
        }
        written.map_err(failed(&self.dir))
    }

    /// Reads a page into `page`; one that has no place is empty.
    pub(super) fn read(&self, place: Option<Place>, page: &mut Vec<u8>) -> Result<(), ImageError> {
        page.clear();
        let Some(place) = place else { return Ok(()) };
        let io = failed(&self.dir);
        let file = self.files.get(&place.file).ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
        page.resize(usize::try_from(place.length).unwrap_or(usize::MAX), 0);
        let read = file.handle.read_at(page, place.at).map_err(&io)?;
        match read == page.len() && crc32fast::hash(page) == place.checksum {
            true => Ok(()),
            false => Err(self.damaged(&format_args!("byte {} of file {}", place.at, place.file))),
        }
    }

    /// The error of a page that cannot be read.
    pub(super) fn damaged(&self, problem: &dyn std::fmt::Display) -> ImageError {
        let problem = format!("a page cannot be read: {problem}");
        ImageError::Store { path: self.dir.display().to_string(), problem }
    }

    /// Makes all written pages survive a crash.
    pub(super) fn sync(&mut self) -> Result<(), ImageError> {
        let io = failed(&self.dir);
        for file in self.files.values_mut().filter(|file| !file.is_synced) {
            file.handle.sync().map_err(&io)?;
            file.is_synced = true;
        }
        self.disk.sync_dir(&self.dir).map_err(io)
    }

    /// Removes the files of which nothing is in use: once no index that a crash may bring back names them.
    pub(super) fn remove_unused(&mut self) -> Result<(), ImageError> {
        let unused = |(number, file): (&u64, &PageFile)| {
            (file.used == 0 && Some(*number) != self.current).then_some(*number)
        };
        for number in self.files.iter().filter_map(unused).collect::<Vec<u64>>() {
            self.disk.remove(&self.dir.join(file_name(number))).map_err(failed(&self.dir))?;
            self.files.remove(&number);
        }
        Ok(())
    }

    /// Bytes of the files of which nothing is in use.
    pub(super) fn unused_bytes(&self) -> u64 {
        self.files.values().filter(|file| file.used == 0).map(|file| file.bytes).sum()
    }

    /// The file of which the least is in use, when there are more than about twice as many files as the pages need. Its pages
    /// are to be appended again, so that it may go.
    pub(super) fn to_be_cleaned(&self) -> Option<u64> {
        let older =
            || self.files.iter().filter(|(number, file)| Some(**number) != self.current && file.used > 0);
        let used: u64 = self.files.values().map(|file| file.used).sum();
        let enough = used.div_ceil(self.file_bytes).saturating_mul(2).saturating_add(SPARE_FILES);
        let are_enough = u64::try_from(older().count()).is_ok_and(|count| count <= enough);
        if are_enough { None } else { older().min_by_key(|(_, file)| file.used).map(|(number, _)| *number) }
    }
}

fn failed(dir: &Path) -> impl Fn(io::Error) -> ImageError + '_ {
    |error| ImageError::of_io(dir, &error)
}

//! The spool: the changed rows of a register, from the survey until the guard has let them pass.
//!
//! Owns their bytes: in memory, and beyond a limit in a file that is removed afterwards. So a register is read once,
//! however large it is. Nothing in it needs to survive a crash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::segments::SegmentError;
use platform::segments::disk::{Disk, DiskFile};
use schemas::avro::binary::{Cursor, DatumError, put_bytes, put_long, put_string};

use crate::source::location::Location;

/// Bytes of rows in memory: more go to the file.
const MEMORY_BYTES: usize = 4 * 1024 * 1024;

/// The file's name.
const FILE: &str = "spool";

/// A row that may become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledRow<'s> {
    /// The byte of the source where the row begins: no other row begins there.
    pub byte: u64,
    pub line: u64,
    /// Whether its key has no image.
    pub is_new: bool,
    pub key: &'s str,
    pub datum: &'s [u8],
}

/// Rows in the order in which they were put.
pub struct Spool {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    /// Bytes of each part of the file; no row is in two parts.
    parts: Vec<usize>,
    /// The youngest rows.
    memory: Vec<u8>,
    memory_bytes: usize,
}

impl Spool {
    /// An empty spool, which makes a file in `dir` when it needs one.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let path = dir.join(FILE);
        Self { disk, path, file: None, parts: Vec::new(), memory: Vec::new(), memory_bytes: MEMORY_BYTES }
    }

    /// Removes the file of a spool that a crash ended.
    pub fn remove_left(disk: &dyn Disk, dir: &Path) -> Result<(), SegmentError> {
        let path = dir.join(FILE);
        match disk.exists(&path) {
            true => disk.remove(&path).map_err(|error| SegmentError::Io { path, error }),
            false => Ok(()),
        }
    }

    /// Adds a row.
    pub fn put(
        &mut self,
        location: Location,
        is_new: bool,
        key: &str,
        datum: &[u8],
    ) -> Result<(), SegmentError> {
        for number in [location.byte, location.line, u64::from(is_new)] {
            put_long(&mut self.memory, i64::try_from(number).unwrap_or(i64::MAX));
        }
        put_string(&mut self.memory, key);
        put_bytes(&mut self.memory, datum);
        if self.memory.len() >= self.memory_bytes { self.write() } else { Ok(()) }
    }

    /// Moves the rows in memory to the file.
    fn write(&mut self) -> Result<(), SegmentError> {
        let io = |error| SegmentError::Io { path: self.path.clone(), error };
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = self.disk.open(&self.path).map_err(io)?;
                file.truncate(0).map_err(io)?;
                self.file.insert(file)
            }
        };
        file.append(&self.memory).map_err(io)?;
        self.parts.push(self.memory.len());
        self.memory.clear();
        Ok(())
    }

    /// Gives each row in order, until `each` fails.
    pub fn for_each<E: From<SegmentError> + From<DatumError>>(
        &self,
        each: &mut dyn FnMut(SpooledRow<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let io = |error| SegmentError::Io { path: self.path.clone(), error };
        let mut at = 0;
        let mut part = Vec::new();
        for length in &self.parts {
            part.resize(*length, 0);
            let read = self.file.as_ref().map_or(Ok(0), |file| file.read_at(&mut part, at)).map_err(io)?;
            part.truncate(read);
            rows(&part, each)?;
            at += u64::try_from(*length).unwrap_or(u64::MAX);
        }
        rows(&self.memory, each)
    }
}

fn rows<E: From<DatumError>>(
    bytes: &[u8],
    each: &mut dyn FnMut(SpooledRow<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::new(bytes);
    while cursor.left() > 0 {
        let [byte, line, is_new] =
            [cursor.long()?, cursor.long()?, cursor.long()?].map(|number| u64::try_from(number).unwrap_or(0));
        each(SpooledRow { byte, line, is_new: is_new == 1, key: cursor.string()?, datum: cursor.bytes()? })?;
    }
    Ok(())
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = self.disk.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the spool's file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use platform::segments::memory_disk::MemoryDisk;

    use super::*;

    #[derive(Debug)]
    struct Failed;

    impl From<SegmentError> for Failed {
        fn from(_: SegmentError) -> Self {
            Self
        }
    }

    impl From<DatumError> for Failed {
        fn from(_: DatumError) -> Self {
            Self
        }
    }

    /// A row of its own: byte, line, whether it is new, key, datum.
    type Owned = (u64, u64, bool, String, Vec<u8>);

    fn all(spool: &Spool) -> Result<Vec<Owned>, Failed> {
        let mut found = Vec::new();
        spool.for_each(&mut |SpooledRow { byte, line, is_new, key, datum }| {
            found.push((byte, line, is_new, key.to_owned(), datum.to_vec()));
            Ok::<(), Failed>(())
        })?;
        Ok(found)
    }

    #[test]
    fn rows_come_back_in_order_from_memory_and_file() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/agent");
        disk.create_dir(dir).unwrap();
        for memory_bytes in [MEMORY_BYTES, 40] {
            let mut spool = Spool::new(Arc::new(disk.clone()), dir);
            spool.memory_bytes = memory_bytes;
            let row = |number: u8| {
                let (at, size) = (u64::from(number), usize::from(number));
                (at * 10, at + 2, number.is_multiple_of(3), format!("k{number}"), vec![number; size])
            };
            let expected: Vec<Owned> = (0..20_u8).map(row).collect();
            for (byte, line, is_new, key, datum) in &expected {
                let location = Location { line: *line, character: 1, byte: *byte };
                spool.put(location, *is_new, key, datum).unwrap();
            }
            assert_eq!(disk.exists(&dir.join(FILE)), memory_bytes < MEMORY_BYTES);
            assert_eq!(all(&spool).unwrap(), expected);
            assert_eq!(all(&spool).unwrap(), expected, "and again");
            drop(spool);
            assert!(!disk.exists(&dir.join(FILE)));
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_and_one_that_a_crash_left_is_removed() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/agent");
        disk.create_dir(dir).unwrap();
        let mut spool = Spool::new(Arc::new(disk.clone()), dir);
        spool.memory_bytes = 1;
        let location = Location { line: 2, character: 1, byte: 4 };
        spool.put(location, true, "k", &[1, 2, 3]).unwrap();
        disk.open(&dir.join(FILE)).unwrap().truncate(3).unwrap();
        assert!(all(&spool).is_err());
        std::mem::forget(spool);
        Spool::remove_left(&disk, dir).unwrap();
        assert!(!disk.exists(&dir.join(FILE)));
        Spool::remove_left(&disk, dir).unwrap();
    }
}

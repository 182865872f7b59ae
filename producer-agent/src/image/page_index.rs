//! The index of pages in sled: for each page the least key that may be in it, and where it is; and the outbox position that
//! the pages reflect.
//!
//! Owns the store's format and sled's traps: a damaged file may cause a panic in `open`, which is caught and reported;
//! `flush` does not sync its file, so the file is synced here; a damaged file may open without some of its entries, so the
//! index says of itself what it holds. One batch takes all that has changed, and sled keeps a batch whole over a crash.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use schemas::digest::hash128;
use sled::Tree;

use super::ImageError;
use super::page_files::Place;

/// The version of the store's contents. In format 1 each row was a value of sled, in format 2 each page.
const FORMAT: u32 = 3;
const FORMAT_KEY: &[u8] = b"format";
/// The index's last entry: no row has this key, which is no text.
const WHOLE_KEY: &[u8] = &[0xff];
/// An agent must be light. sled is read once, when the index is opened.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// The index on the disk.
pub(super) struct PageIndex {
    path: PathBuf,
    db: sled::Db,
    /// The store's format alone: an older dit looks for it there.
    meta: Tree,
    tree: Tree,
}

/// Pages by the least key that may be in each; a page ends where the next one begins.
pub(super) type Entries = BTreeMap<String, Place>;

/// What an index says of itself: an index that has lost an entry, or brought back an old one, is found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Whole {
    /// The first outbox position that the pages do not reflect.
    pub(super) position: u64,
    /// The sum of all entries' hashes.
    pub(super) sum: u128,
}

impl Whole {
    fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (position, sum) = bytes.split_at_mut(8);
        position.copy_from_slice(&self.position.to_le_bytes());
        sum.copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (position, sum) = bytes.split_first_chunk()?;
        let sum = sum.try_into().ok()?;
        Some(Self { position: u64::from_le_bytes(*position), sum: u128::from_le_bytes(sum) })
    }
}

/// The hash of an entry, for the sum.
pub(super) fn hash(begins: &str, place: Place) -> u128 {
    let mut bytes = place.encode().to_vec();
    bytes.extend_from_slice(begins.as_bytes());
    hash128(&bytes)
}

impl PageIndex {
    /// Opens the folder, or begins one there.
    pub(super) fn open(path: &Path) -> Result<(Self, Entries, Whole), ImageError> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            // It is flushed with each batch.
            let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            let db = config.open().map_err(|error| failed(path, &error))?;
            let tree = |name| db.open_tree(name).map_err(|error| failed(path, &error));
            let (meta, tree) = (tree("meta")?, tree("index")?);
            let index = Self { path: path.to_owned(), db, meta, tree };
            index.check_format()?;
            let (entries, whole) = index.read()?;
            Ok((index, entries, whole))
        }));
        platform::closed::seal(path);
        let problem = "sled panicked while opening it; its file is damaged";
        opened.unwrap_or_else(|_| Err(store(path, problem.to_owned())))
    }

    fn check_format(&self) -> Result<(), ImageError> {
        let found = self.meta.get(FORMAT_KEY).map_err(self.wrong())?;
        match found.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => {
                Err(ImageError::NewerFormat { path: self.path.display().to_string(), found })
            }
            Some(found) => {
                Err(store(&self.path, format!("it has format {found}, which this version does not read")))
            }
            None => {
                self.meta.insert(FORMAT_KEY, &FORMAT.to_le_bytes()).map_err(self.wrong())?;
                Ok(())
            }
        }
    }

    /// All entries, and what the index says of itself; an error where the two do not fit.
    fn read(&self) -> Result<(Entries, Whole), ImageError> {
        let damaged = || store(&self.path, "its index is damaged".to_owned());
        let mut entries = Entries::new();
        let mut whole = Whole::default();
        let mut sum = 0_u128;
        for found in &self.tree {
            let (key, value) = found.map_err(self.wrong())?;
            if key.as_ref() == WHOLE_KEY {
                whole = Whole::decode(&value).ok_or_else(damaged)?;
                continue;
            }
            let begins = std::str::from_utf8(&key).map_err(|_| damaged())?;
            let place = Place::decode(&value).ok_or_else(damaged)?;
            sum = sum.wrapping_add(hash(begins, place));
            entries.insert(begins.to_owned(), place);
        }
        if whole.sum == sum { Ok((entries, whole)) } else { Err(damaged()) }
    }

    fn wrong(&self) -> impl Fn(sled::Error) -> ImageError {
        |error| failed(&self.path, &error)
    }

    /// Writes what has become of these pages, and of the whole, and syncs it. All that the places name is synced before.
    pub(super) fn commit<'k>(
        &self,
        pages: impl Iterator<Item = (&'k str, Option<Place>)>,
        whole: Whole,
    ) -> Result<(), ImageError> {
        let mut batch = sled::Batch::default();
        for (begins, place) in pages {
            match place {
                Some(place) => batch.insert(begins.as_bytes(), place.encode().as_slice()),
                None => batch.remove(begins.as_bytes()),
            }
        }
        batch.insert(WHOLE_KEY, whole.encode().as_slice());
        self.tree.apply_batch(batch).map_err(self.wrong())?;
        self.sync()
    }

    /// Forgets all pages and the position.
    pub(super) fn clear(&self) -> Result<(), ImageError> {
        self.tree.clear().map_err(self.wrong())?;
        self.sync()
    }

    /// Makes what is written survive a crash.
    pub(super) fn sync(&self) -> Result<(), ImageError> {
        self.db.flush().map_err(self.wrong())?;
        let path = self.path.join("db");
        let synced = File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|error| ImageError::of_io(&path, &error))
    }
}

fn store(path: &Path, problem: String) -> ImageError {
    ImageError::Store { path: path.display().to_string(), problem }
}

fn failed(path: &Path, error: &sled::Error) -> ImageError {
    match error {
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            ImageError::Locked { path: path.display().to_string() }
        }
        sled::Error::Io(error) => ImageError::of_io(path, error),
        error => store(path, error.to_string()),
    }
}

#[cfg(test)]
impl PageIndex {
    pub(super) fn set_format(&self, format: u32) {
        self.meta.insert(FORMAT_KEY, &format.to_le_bytes()).unwrap();
        self.sync().unwrap();
    }

    pub(super) fn lose_an_entry(&self) {
        self.tree.pop_min().unwrap();
        self.sync().unwrap();
    }
}

//! Images in sled: pages of neighbouring keys, and the youngest changes in memory until they are folded into pages.
//!
//! Owns when changes are folded, and sled's traps: a walk of its tree costs more than all other work for a row, so a row
//! is never a value of its own; `flush` does not sync its file, so the file is synced here; a damaged file may cause a
//! panic in `open`, which is caught and reported; large values are files of their own, which sled never syncs and whose loss
//! it passes over. So the position is written only when all that it speaks of is synced, and a store is read through when
//! it is opened. A crash loses what was not folded: the outbox has it.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use schemas::avro::binary::DatumError;
use sled::{IVec, Tree};

use super::page::{Merged, Rows};
use super::{ImageChange, ImageError, ImageStore};

/// The version of the store's contents. In format 1 each row was a value.
const FORMAT: u32 = 2;
const FORMAT_KEY: &[u8] = b"format";
const POSITION_KEY: &[u8] = b"position";
/// An agent must be light: a site's smallest machine has 512 MB.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Written to disk at least so often; keeps the cache from filling.
const FLUSH_EVERY_MS: u64 = 500;
/// Bytes of changes in memory at which they are folded: the more at once, the fewer pages are written twice.
const FOLD_BYTES: usize = 16 * 1024 * 1024;
/// What a young change costs besides its key and image.
const YOUNG_BYTES: usize = 128;
/// Bytes of pages that are written together.
const BATCH_BYTES: usize = 1024 * 1024;

/// Changes that are in no page yet.
#[derive(Debug, Default)]
struct Young {
    changes: HashMap<String, Option<Vec<u8>>>,
    bytes: usize,
    /// The outbox position that pages and changes reflect.
    position: u64,
    /// The outbox position that is written.
    written: u64,
    /// How many keys the pages have, once they were counted.
    rows: Option<u64>,
}

/// Images in a sled folder.
pub struct SledImages {
    path: PathBuf,
    db: sled::Db,
    /// Each page under the least key that may be in it; it ends where the next one begins.
    pages: Tree,
    meta: Tree,
    young: Mutex<Young>,
}

impl SledImages {
    /// Opens the folder, or begins one there.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let store = |problem: String| ImageError::Store { path: path.display().to_string(), problem };
        let wrong = |error: sled::Error| failed(path, &error);
        let config =
            sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = config.open()?;
            let pages = db.open_tree("pages")?;
            let meta = db.open_tree("meta")?;
            Ok::<_, sled::Error>((db, pages, meta))
        }));
        platform::closed::seal(path);
        let (db, pages, meta) = match opened {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => return Err(wrong(error)),
            Err(_) => return Err(store("sled panicked while opening it; its file is damaged".to_owned())),
        };
        let found = meta.get(FORMAT_KEY).map_err(wrong)?;
        match found.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(ImageError::NewerFormat { path: path.display().to_string(), found });
            }
            Some(found) => {
                return Err(store(format!("it has format {found}, which this version does not read")));
            }
            None => {
                meta.insert(FORMAT_KEY, &FORMAT.to_le_bytes()).map_err(wrong)?;
            }
        }
        let found = meta.get(POSITION_KEY).map_err(wrong)?;
        let position = found.as_deref().and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let young = Mutex::new(Young { position, written: position, ..Young::default() });
        let images = Self { path: path.to_owned(), db, pages, meta, young };
        // What cannot be read is found now, while it can be set aside.
        images.count()?;
        Ok(images)
    }

    /// Opens the folder. One that cannot be opened is renamed and kept, and a new one begins; returns whether that
    /// happened.
    pub fn open_or_set_aside(path: &Path) -> Result<(Self, bool), ImageError> {
        let problem = match Self::open(path) {
            Ok(images) => return Ok((images, false)),
            Err(ImageError::Store { problem, .. }) => problem,
            Err(error) => return Err(error),
        };
        let name = format!("images.set-aside-{}", platform::clock::now().get());
        let aside = path.with_file_name(name);
        tracing::error!(path = %path.display(), aside = %aside.display(), %problem, "the image store is set aside and rebuilt");
        std::fs::rename(path, &aside).map_err(|error| ImageError::Store {
            path: path.display().to_string(),
            problem: format!("{problem}; and it cannot be set aside: {error}"),
        })?;
        Self::open(path).map(|images| (images, true))
    }

    fn wrong(&self) -> impl Fn(sled::Error) -> ImageError {
        |error| failed(&self.path, &error)
    }

    fn damaged(&self, problem: &dyn std::fmt::Display) -> ImageError {
        let problem = format!("a page cannot be read: {problem}");
        ImageError::Store { path: self.path.display().to_string(), problem }
    }

    fn lock(&self) -> MutexGuard<'_, Young> {
        self.young.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that a key is in, and where the next page begins.
    fn page_of(&self, key: &[u8]) -> Result<Page, ImageError> {
        let found = self.pages.range::<&[u8], _>(..=key).next_back().transpose().map_err(self.wrong())?;
        let (begins, bytes) = found.unwrap_or_default();
        let behind = (Bound::Excluded(key), Bound::Unbounded);
        let next = self.pages.range::<&[u8], _>(behind).next().transpose().map_err(self.wrong())?;
        Ok(Page { begins, bytes, ends: next.map(|(key, _)| key) })
    }

    /// Folds the young changes into their pages. After an error they are still young, and folded again.
    fn fold(&self, young: &mut Young) -> Result<(), ImageError> {
        if young.changes.is_empty() {
            return Ok(());
        }
        let rows = young.rows.take();
        let mut growth = 0;
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        let mut changes: Vec<_> =
            young.changes.iter().map(|(key, after)| (key.as_str(), after.as_deref())).collect();
        changes.sort_unstable_by_key(|(key, _)| *key);
        let mut changes = changes.into_iter().peekable();
        while let Some((key, _)) = changes.peek() {
            let page = self.page_of(key.as_bytes())?;
            let mut taken = 0;
            let within = std::iter::from_fn(|| {
                let next = changes.next_if(|(key, _)| taken < BATCH_BYTES && page.has_room_for(key))?;
                taken += YOUNG_BYTES + next.1.map_or(0, <[u8]>::len);
                Some(next)
            });
            let merged = Merged::of(page.rows(), within).map_err(|error| self.damaged(&error))?;
            growth += merged.growth;
            bytes += self.put(&page, &merged, &mut batch)?;
            // A page and what it is cut into are in one batch, which sled keeps whole over a crash. What is left of the
            // page's changes belongs to what it is cut into.
            if bytes.max(taken) >= BATCH_BYTES {
                self.pages.apply_batch(std::mem::take(&mut batch)).map_err(self.wrong())?;
                bytes = 0;
            }
        }
        self.pages.apply_batch(batch).map_err(self.wrong())?;
        young.rows = rows.map(|rows| rows.saturating_add_signed(growth));
        // A large fold's memory is given back.
        young.changes = HashMap::new();
        young.bytes = 0;
        Ok(())
    }

    /// Visits the rows of the pages.
    fn each_row(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let mut pages = self.pages.iter().peekable();
        while let Some(page) = pages.next() {
            let (begins, bytes) = page.map_err(self.wrong())?;
            let ends = pages.peek().and_then(|next| next.as_ref().ok()).map(|(key, _)| key.clone());
            let page = Page { begins, bytes, ends };
            for row in page.rows() {
                let (key, image) = row.map_err(|error| self.damaged(&error))?;
                if !each(key, image) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Syncs what sled has written: its file, and the files of large values.
    fn sync_files(&self) -> Result<(), ImageError> {
        self.db.flush().map_err(self.wrong())?;
        let blobs = self.path.join("blobs");
        let sync = |file: &Path| {
            let synced = File::open(file).and_then(|file| file.sync_data());
            synced.map_err(|error| failed(file, &sled::Error::Io(error)))
        };
        let mut found = false;
        for blob in std::fs::read_dir(&blobs).into_iter().flatten().flatten() {
            found = true;
            match sync(&blob.path()) {
                // sled has removed it meanwhile.
                Err(_) if !blob.path().exists() => {}
                synced => synced?,
            }
        }
        if found {
            sync(&blobs)?;
        }
        sync(&self.path.join("db"))
    }

    /// Puts what became of a page into a batch; returns its bytes. A page without rows stays: it is the end of the one
    /// before, which may have rows behind it after a crash.
    fn put(&self, page: &Page, merged: &Merged, batch: &mut sled::Batch) -> Result<usize, ImageError> {
        let mut bytes = 0;
        let mut begins = page.begins.clone();
        for (index, cut) in merged.pages().enumerate() {
            if index > 0 {
                let first = Rows::of(cut).next().transpose().map_err(|error| self.damaged(&error))?;
                begins = first.map_or_else(IVec::default, |(key, _)| key.as_bytes().into());
            }
            batch.insert(begins.clone(), cut);
            bytes += cut.len();
        }
        Ok(bytes)
    }
}

/// A page as it is in the store.
#[derive(Debug)]
struct Page {
    begins: IVec,
    bytes: IVec,
    ends: Option<IVec>,
}

impl Page {
    fn has_room_for(&self, key: &str) -> bool {
        self.ends.as_ref().is_none_or(|end| key.as_bytes() < end.as_ref())
    }

    /// Its rows, up to the next page.
    fn rows(&self) -> impl Iterator<Item = Result<(&str, &[u8]), DatumError>> {
        Rows::of(&self.bytes).take_while(|row| row.as_ref().map_or(true, |(key, _)| self.has_room_for(key)))
    }
}

fn failed(path: &Path, error: &sled::Error) -> ImageError {
    let path = path.display().to_string();
    match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            ImageError::Full { path }
        }
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            ImageError::Locked { path }
        }
        error => ImageError::Store { path, problem: error.to_string() },
    }
}

impl ImageStore for SledImages {
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError> {
        let young = self.lock();
        let mut images = vec![None; keys.len()];
        let mut wanted = Vec::new();
        for (image, key) in images.iter_mut().zip(keys) {
            match young.changes.get(*key) {
                Some(after) => image.clone_from(after),
                None => wanted.push((*key, image)),
            }
        }
        wanted.sort_unstable_by_key(|(key, _)| *key);
        let mut wanted = wanted.into_iter().peekable();
        while let Some((key, _)) = wanted.peek() {
            let page = self.page_of(key.as_bytes())?;
            let mut rows = page.rows().peekable();
            while let Some((key, image)) = wanted.next_if(|(key, _)| page.has_room_for(key)) {
                while rows.next_if(|row| row.as_ref().is_ok_and(|(found, _)| *found < key)).is_some() {}
                match rows.peek() {
                    Some(Ok((found, bytes))) if *found == key => *image = Some(bytes.to_vec()),
                    Some(Err(error)) => return Err(self.damaged(error)),
                    _ => {}
                }
            }
        }
        Ok(images)
    }

    fn apply(&self, changes: Vec<ImageChange>, position: u64) -> Result<(), ImageError> {
        let mut young = self.lock();
        for ImageChange { key, after } in changes {
            young.bytes += YOUNG_BYTES + key.len() + after.as_ref().map_or(0, Vec::len);
            young.changes.insert(key, after);
        }
        young.position = position;
        if young.bytes >= FOLD_BYTES { self.fold(&mut young) } else { Ok(()) }
    }

    fn position(&self) -> Result<u64, ImageError> {
        Ok(self.lock().position)
    }

    fn count(&self) -> Result<u64, ImageError> {
        let mut young = self.lock();
        self.fold(&mut young)?;
        if let Some(rows) = young.rows {
            return Ok(rows);
        }
        let mut rows = 0;
        self.each_row(&mut |_, _| {
            rows += 1;
            true
        })?;
        young.rows = Some(rows);
        Ok(rows)
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let mut young = self.lock();
        self.fold(&mut young)?;
        self.each_row(each)
    }

    fn clear(&self) -> Result<(), ImageError> {
        let mut young = self.lock();
        *young = Young::default();
        self.pages.clear().map_err(self.wrong())?;
        self.meta.remove(POSITION_KEY).map_err(self.wrong())?;
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        let mut young = self.lock();
        self.fold(&mut young)?;
        self.sync_files()?;
        if young.written != young.position {
            self.meta.insert(POSITION_KEY, &young.position.to_le_bytes()).map_err(self.wrong())?;
            self.sync_files()?;
            young.written = young.position;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

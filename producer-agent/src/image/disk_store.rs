//! Images on the disk: pages of neighbouring keys, and the youngest changes in memory until they are folded into pages.
//!
//! Owns when changes are folded and committed. A row is never looked for or written by itself. A crash loses what was not
//! committed, together with its position: the outbox has it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::segments::disk::{Disk, RealDisk};

use super::page_files::FILE_BYTES;
use super::pages::Pages;
use super::young::{self, Young};
use super::{ImageChange, ImageError, ImageStore};

struct State {
    young: Young,
    pages: Arc<Mutex<Pages>>,
    /// The outbox position that pages and young changes reflect.
    position: u64,
}

/// Images in a folder.
pub struct DiskImages {
    state: Mutex<State>,
    synced: Arc<AtomicU64>,
}

impl DiskImages {
    /// Opens the folder, or begins one there.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::open_on(Arc::new(RealDisk), path, FILE_BYTES)
    }

    /// Opens the folder, with its pages in files of some size on another disk.
    fn open_on(disk: Arc<dyn Disk>, path: &Path, file_bytes: u64) -> Result<Self, ImageError> {
        let pages = Pages::open(disk, path, file_bytes)?;
        let synced = pages.committed();
        let position = synced.load(Ordering::Acquire);
        let pages = Arc::new(Mutex::new(pages));
        let state = Mutex::new(State { young: Young::default(), pages, position });
        Ok(Self { state, synced })
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DiskImages {
    /// Ends a fold: whoever opens the folder next must be alone in it.
    fn drop(&mut self) {
        if let Err(error) = self.lock().young.end_fold() {
            tracing::warn!(%error, "the last images were not folded; the outbox has them");
        }
    }
}

impl State {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        young::lock(&self.pages)
    }

    fn fold(&mut self) -> Result<(), ImageError> {
        self.young.fold(&self.pages)
    }

    fn commit(&mut self) -> Result<(), ImageError> {
        self.fold()?;
        self.pages().commit(self.position)
    }

    fn fold_behind(&mut self) -> Result<(), ImageError> {
        let next = self.young.end_fold()?;
        let commit_at = self.pages().should_commit().then_some(self.position);
        self.young.fold_behind(&self.pages, commit_at, next)
    }

    fn commit_behind(&mut self) -> Result<(), ImageError> {
        let next = self.young.end_fold()?;
        self.young.fold_behind(&self.pages, Some(self.position), next)
    }
}

impl ImageStore for DiskImages {
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError> {
        let state = self.lock();
        let mut images = vec![None; keys.len()];
        let mut wanted = Vec::new();
        for (image, key) in images.iter_mut().zip(keys) {
            match state.young.get(key) {
                Some(change) => *image = change.after.map(<[u8]>::to_vec),
                None => wanted.push((*key, image)),
            }
        }
        // New rows need no page: they do not wait for a fold.
        if !wanted.is_empty() {
            wanted.sort_unstable_by_key(|(key, _)| *key);
            state.pages().look_up(wanted.into_iter())?;
        }
        Ok(images)
    }

    fn apply(&self, changes: &[ImageChange<'_>], position: u64) -> Result<(), ImageError> {
        let mut state = self.lock();
        changes.iter().for_each(|change| state.young.put(*change));
        state.position = position;
        if state.young.is_full() { state.fold_behind() } else { Ok(()) }
    }

    fn position(&self) -> Result<u64, ImageError> {
        let mut state = self.lock();
        state.young.end_finished_fold()?;
        Ok(state.position)
    }

    fn count(&self) -> Result<u64, ImageError> {
        let mut state = self.lock();
        state.fold()?;
        Ok(state.pages().rows())
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let mut state = self.lock();
        state.fold()?;
        state.pages().each_row(each)
    }

    fn clear(&self) -> Result<(), ImageError> {
        let mut state = self.lock();
        state.young.forget();
        state.position = 0;
        state.pages().clear()
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.lock().commit()
    }

    fn sync_behind(&self) -> Result<(), ImageError> {
        let mut state = self.lock();
        if state.young.is_folding() { Ok(()) } else { state.commit_behind() }
    }

    fn synced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.synced)
    }
}

#[cfg(test)]
mod tests;

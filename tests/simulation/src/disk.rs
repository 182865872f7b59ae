//! A provider's storage with crashes and restored copies: images, next to the outbox's disk.
//!
//! Owns the twin of the image store that loses what was not synced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::segments::memory_disk::MemoryDisk;
use producer_agent::image::{ImageChange, ImageError, ImageStore};

type Contents = (BTreeMap<String, Vec<u8>>, u64);

#[derive(Debug, Clone, Default)]
struct Sides {
    current: Contents,
    synced: Contents,
    /// What is being synced: a crash comes before its end, or the next change comes after it.
    being_synced: Option<Contents>,
}

/// Images that survive a crash as far as they were synced, or further; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Images {
    sides: Arc<Mutex<Sides>>,
    synced: Arc<AtomicU64>,
}

impl Images {
    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a sync that was begun.
    fn end_sync(&self) -> MutexGuard<'_, Sides> {
        let mut sides = self.lock();
        if let Some(contents) = sides.being_synced.take() {
            self.synced.store(contents.1, Ordering::Release);
            sides.synced = contents;
        }
        sides
    }

    /// The machine stops; `keeps` is whether the store had also written what was not synced.
    pub fn crash(&self, keeps: bool) {
        let mut sides = self.lock();
        match keeps {
            true => sides.synced = sides.current.clone(),
            false => sides.current = sides.synced.clone(),
        }
        sides.being_synced = None;
        self.synced.store(sides.synced.1, Ordering::Release);
    }

    pub fn lose(&self) {
        *self.lock() = Sides::default();
        self.synced.store(0, Ordering::Release);
    }

    fn copy(&self) -> Sides {
        self.lock().clone()
    }
}

impl ImageStore for Images {
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError> {
        let sides = self.lock();
        Ok(keys.iter().map(|key| sides.current.0.get(*key).cloned()).collect())
    }

    fn apply(&self, changes: &[ImageChange<'_>], position: u64) -> Result<(), ImageError> {
        let mut sides = self.end_sync();
        for ImageChange { key, after } in changes {
            match after {
                Some(after) => sides.current.0.insert((*key).to_owned(), after.to_vec()),
                None => sides.current.0.remove(*key),
            };
        }
        sides.current.1 = position;
        Ok(())
    }

    fn position(&self) -> Result<u64, ImageError> {
        Ok(self.lock().current.1)
    }

    fn count(&self) -> Result<u64, ImageError> {
        Ok(u64::try_from(self.lock().current.0.len()).unwrap_or(u64::MAX))
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let sides = self.lock();
        let _stopped = sides.current.0.iter().any(|(key, image)| !each(key, image));
        Ok(())
    }

    fn clear(&self) -> Result<(), ImageError> {
        self.end_sync().current = Contents::default();
        self.synced.store(0, Ordering::Release);
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.sync_behind()?;
        drop(self.end_sync());
        Ok(())
    }

    fn sync_behind(&self) -> Result<(), ImageError> {
        let mut sides = self.end_sync();
        sides.being_synced = Some(sides.current.clone());
        Ok(())
    }

    fn synced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.synced)
    }
}

/// A copy of a provider's folder, as a backup makes it.
pub struct Backup {
    disk: MemoryDisk,
    images: Sides,
}

impl Backup {
    /// Copies a folder as it is now.
    pub fn of(disk: &MemoryDisk, images: &Images) -> Self {
        Self { disk: disk.copy(), images: images.copy() }
    }

    /// The empty folder of a new machine.
    pub fn empty() -> Self {
        Self { disk: MemoryDisk::new(), images: Sides::default() }
    }

    /// Puts the copy in the folder's place.
    pub fn restore(self, disk: &MemoryDisk, images: &Images) {
        disk.become_copy_of(&self.disk);
        images.synced.store(self.images.synced.1, Ordering::Release);
        *images.lock() = self.images;
    }
}

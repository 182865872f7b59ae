//! A provider's storage with crashes and restored copies: images, next to the outbox's disk.
//!
//! Owns the twin of the image store that loses what was not synced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::segments::memory_disk::MemoryDisk;
use producer_agent::image::{ImageChange, ImageError, ImageStore};

type Contents = (BTreeMap<String, Vec<u8>>, u64);

#[derive(Debug, Clone, Default)]
struct Sides {
    current: Contents,
    synced: Contents,
}

/// Images that survive a crash as far as they were synced, or further; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Images(Arc<Mutex<Sides>>);

impl Images {
    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine stops; `keeps` is whether the store had also written what was not synced.
    pub fn crash(&self, keeps: bool) {
        let mut sides = self.lock();
        match keeps {
            true => sides.synced = sides.current.clone(),
            false => sides.current = sides.synced.clone(),
        }
    }

    pub fn lose(&self) {
        *self.lock() = Sides::default();
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

    fn apply(&self, changes: Vec<ImageChange>, position: u64) -> Result<(), ImageError> {
        let mut sides = self.lock();
        for ImageChange { key, after } in changes {
            match after {
                Some(after) => sides.current.0.insert(key, after),
                None => sides.current.0.remove(&key),
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
        self.lock().current = Contents::default();
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        let mut sides = self.lock();
        sides.synced = sides.current.clone();
        Ok(())
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
        *images.lock() = self.images;
    }
}

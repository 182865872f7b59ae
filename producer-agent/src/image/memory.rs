//! Images in memory: the twin of the store on the disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ImageChange, ImageError, ImageStore};

#[derive(Debug, Default)]
pub struct MemoryImages {
    state: Mutex<(BTreeMap<String, Vec<u8>>, u64)>,
    synced: Arc<AtomicU64>,
}

impl MemoryImages {
    fn lock(&self) -> MutexGuard<'_, (BTreeMap<String, Vec<u8>>, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageStore for MemoryImages {
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError> {
        let state = self.lock();
        Ok(keys.iter().map(|key| state.0.get(*key).cloned()).collect())
    }

    fn apply(&self, changes: &[ImageChange<'_>], position: u64) -> Result<(), ImageError> {
        let mut state = self.lock();
        for ImageChange { key, after } in changes {
            match after {
                Some(after) => state.0.insert((*key).to_owned(), after.to_vec()),
                None => state.0.remove(*key),
            };
        }
        state.1 = position;
        Ok(())
    }

    fn position(&self) -> Result<u64, ImageError> {
        Ok(self.lock().1)
    }

    fn count(&self) -> Result<u64, ImageError> {
        Ok(u64::try_from(self.lock().0.len()).unwrap_or(u64::MAX))
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let state = self.lock();
        let _stopped = state.0.iter().any(|(key, image)| !each(key, image));
        Ok(())
    }

    fn clear(&self) -> Result<(), ImageError> {
        *self.lock() = (BTreeMap::new(), 0);
        self.synced.store(0, Ordering::Release);
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.synced.store(self.lock().1, Ordering::Release);
        Ok(())
    }

    fn sync_behind(&self) -> Result<(), ImageError> {
        self.sync()
    }

    fn synced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.synced)
    }
}

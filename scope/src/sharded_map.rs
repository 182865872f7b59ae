//! A hash map from keys to numbers, in shards: a change copies one shard, and no reader waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Parts of a table: of 10,000 values a change copies some 160.
const SHARDS: usize = 64;

/// Numbers by key.
#[derive(Debug, Clone)]
pub(crate) struct ShardedMap<K> {
    state: RandomState,
    parts: Vec<Arc<HashMap<K, Vec<u32>>>>,
}

impl<K> Default for ShardedMap<K> {
    fn default() -> Self {
        Self { state: RandomState::new(), parts: Vec::new() }
    }
}

impl<K: Hash + Eq + Clone> ShardedMap<K> {
    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        usize::try_from(self.state.hash_one(key) % shards).unwrap_or(0)
    }

    /// The numbers of a key.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[u32]
    where
        K: std::borrow::Borrow<Q>,
    {
        let part = if self.parts.is_empty() { None } else { self.parts.get(self.part(key)) };
        part.and_then(|part| part.get(key)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn add(&mut self, key: K, id: u32) {
        if self.parts.is_empty() {
            self.parts = (0..SHARDS).map(|_| Arc::default()).collect();
        }
        let part = self.part(&key);
        if let Some(part) = self.parts.get_mut(part) {
            Arc::make_mut(part).entry(key).or_default().push(id);
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, id: u32)
    where
        K: std::borrow::Borrow<Q>,
    {
        let part = self.part(key);
        let Some(part) = self.parts.get_mut(part).map(Arc::make_mut) else { return };
        if let Some(ids) = part.get_mut(key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                part.remove(key);
            }
        }
    }
}

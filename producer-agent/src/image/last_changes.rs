//! Changes in memory: the last one of each key.
//!
//! Owns which change of a key is the last; an earlier one stays in memory until all of it is given back.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;

use super::ImageChange;
use super::packed::{Packed, PackedImages};

/// What a change costs besides its key and image.
const ROW_BYTES: usize = 72;

/// The last change of each key.
#[derive(Debug, Default)]
pub(super) struct LastChanges {
    packed: PackedImages,
    rows: Vec<Packed>,
    /// For each key, its hash and the index of its row: where the table grows, no key is read again.
    last: HashTable<(u64, usize)>,
    hasher: RandomState,
}

impl LastChanges {
    pub(super) fn put(&mut self, change: ImageChange<'_>) {
        let Self { packed, rows, last, hasher } = self;
        let row = rows.len();
        rows.push(packed.pack(change));
        let key_of = |row: usize| rows.get(row).map(|row| packed.get(row).key).unwrap_or_default();
        let hash = hasher.hash_one(change.key);
        let is_key = |(other, row): &(u64, usize)| *other == hash && key_of(*row) == change.key;
        last.entry(hash, is_key, |(hash, _)| *hash).insert((hash, row));
    }

    /// The last change of a key; `None` where it is not among these.
    pub(super) fn get(&self, key: &str) -> Option<ImageChange<'_>> {
        let hash = self.hasher.hash_one(key);
        let is_key = |(other, row): &(u64, usize)| {
            *other == hash && self.change(*row).is_some_and(|change| change.key == key)
        };
        self.last.find(hash, is_key).and_then(|(_, row)| self.change(*row))
    }

    fn change(&self, row: usize) -> Option<ImageChange<'_>> {
        self.rows.get(row).map(|row| self.packed.get(row))
    }

    /// The changes in the order of their keys.
    pub(super) fn in_order(&self) -> impl Iterator<Item = ImageChange<'_>> {
        let mut changes: Vec<_> = self.last.iter().filter_map(|(_, row)| self.change(*row)).collect();
        changes.sort_unstable_by_key(|change| change.key);
        changes.into_iter()
    }

    /// Takes younger changes.
    pub(super) fn extend(&mut self, younger: &Self) {
        younger.in_order().for_each(|change| self.put(change));
    }

    /// Without its changes, and with its memory.
    pub(super) fn emptied(mut self) -> Self {
        self.packed.clear();
        self.rows.clear();
        self.last.clear();
        self
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.packed.bytes() + self.rows.len() * ROW_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'c>(key: &'c str, after: Option<&'c [u8]>) -> ImageChange<'c> {
        ImageChange { key, after }
    }

    #[test]
    fn the_last_change_of_a_key_is_kept() {
        let mut changes = LastChanges::default();
        for number in 0..1_000_u32 {
            changes.put(change(&(number % 10).to_string(), Some(&number.to_le_bytes())));
        }
        changes.put(change("3", None));
        changes.put(change("5", Some(b"")));
        let mut younger = LastChanges::default();
        younger.put(change("7", None));
        younger.put(change("a", Some(b"x")));
        changes.extend(&younger);
        assert_eq!(changes.get("4"), Some(change("4", Some(&994_u32.to_le_bytes()))));
        assert_eq!(changes.get("3"), Some(change("3", None)));
        assert_eq!(changes.get("5"), Some(change("5", Some(b""))));
        assert_eq!(changes.get("7"), Some(change("7", None)));
        assert_eq!(changes.get("10"), None);
        let keys: Vec<&str> = changes.in_order().map(|change| change.key).collect();
        assert_eq!(keys, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a"]);
    }
}

//! One value for each partition of a channel, found by its partition.
//!
//! Owns the step from a partition to its index in a list; no other code converts one to the other. A partition that
//! does not exist gives `None`, never another partition's value.

use serde::{Deserialize, Serialize};

use crate::ids::Partition;

/// One value for each partition, from partition 0 on without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerPartition<T>(Vec<T>);

impl<T> PerPartition<T> {
    /// No partition at all, as before their number is known.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// A value for each of `count` partitions.
    pub fn from_fn(count: u32, value: impl FnMut(Partition) -> T) -> Self {
        Self(Partition::all(count).map(value).collect())
    }

    /// How many partitions have a value.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no partition has a value.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, partition: Partition) -> Option<&T> {
        self.0.get(partition.index())
    }

    /// A partition's value, to be changed.
    pub fn get_mut(&mut self, partition: Partition) -> Option<&mut T> {
        self.0.get_mut(partition.index())
    }

    /// Each partition with its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &T)> {
        every_partition().zip(&self.0)
    }

    /// Each partition with its value, in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Partition, &mut T)> {
        every_partition().zip(&mut self.0)
    }

    /// The values, in the partitions' order.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The values, in the partitions' order, to be changed.
    pub fn values_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// The values themselves, in the partitions' order.
    pub fn into_values(self) -> std::vec::IntoIter<T> {
        self.0.into_iter()
    }
}

impl<T: Clone> PerPartition<T> {
    /// The same value for each of `count` partitions.
    pub fn filled(count: u32, value: T) -> Self {
        Self::from_fn(count, |_| value.clone())
    }
}

impl<T> Default for PerPartition<T> {
    fn default() -> Self {
        Self::none()
    }
}

impl<T> FromIterator<T> for PerPartition<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

fn every_partition() -> impl Iterator<Item = Partition> {
    (0..=u32::MAX).map(Partition::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_not_there_has_no_value() {
        let mut places = PerPartition::from_fn(3, |partition| partition.get() * 10);
        assert_eq!(places.get(Partition::new(2)), Some(&20));
        assert_eq!(places.get(Partition::new(3)), None);
        assert_eq!(places.get(Partition::new(u32::MAX)), None, "no number wraps around to another partition");
        assert_eq!(places.get_mut(Partition::new(3)), None);
    }

    #[test]
    fn values_come_with_their_partitions() {
        let mut places: PerPartition<_> = ["a", "b"].into_iter().collect();
        let found: Vec<_> = places.iter().map(|(partition, value)| (partition.get(), *value)).collect();
        assert_eq!(found, [(0, "a"), (1, "b")]);
        for (partition, value) in places.iter_mut().filter(|(partition, _)| partition.get() == 1) {
            assert_eq!(partition, Partition::new(1));
            *value = "c";
        }
        assert_eq!(places.into_values().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn its_json_is_a_plain_list() {
        let places = PerPartition::filled(2, 7);
        assert_eq!(serde_json::to_string(&places).unwrap(), "[7,7]");
        assert_eq!(serde_json::from_str::<PerPartition<u8>>("[7,7]").unwrap(), places);
        assert_eq!(PerPartition::<u8>::default(), PerPartition::none());
    }
}

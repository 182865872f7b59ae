//! Groups by ranges of one field's values.
//!
//! Owns ranges with one bound, where every group that is visited is a hit, and ranges with two, which are visited from
//! the lowest on. Values are compared by their own order.

use crate::predicate::access::Bound;

/// Ranges of one field's values.
#[derive(Debug, Clone)]
pub(super) struct Ranges<K> {
    /// From a bound upwards, the lowest first.
    above: Vec<(Bound<K>, u32)>,
    /// From a bound downwards, the highest first.
    below: Vec<(Bound<K>, u32)>,
    /// Between two bounds, the lowest lower bound first.
    between: Vec<(Bound<K>, Bound<K>, u32)>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self { above: Vec::new(), below: Vec::new(), between: Vec::new() }
    }
}

impl<K: Ord + Clone> Ranges<K> {
    pub(super) fn add(&mut self, lower: Option<&Bound<K>>, upper: Option<&Bound<K>>, id: u32) {
        match (lower, upper) {
            (Some(lower), None) => {
                // An inclusive bound comes before the same exclusive one: after a miss, all others are misses.
                let order = |bound: &Bound<K>| (&bound.at, !bound.is_in) < (&lower.at, !lower.is_in);
                let at = self.above.partition_point(|(bound, _)| order(bound));
                self.above.insert(at, (lower.clone(), id));
            }
            (None, Some(upper)) => {
                let order = |bound: &Bound<K>| (&bound.at, bound.is_in) > (&upper.at, upper.is_in);
                let at = self.below.partition_point(|(bound, _)| order(bound));
                self.below.insert(at, (upper.clone(), id));
            }
            (Some(lower), Some(upper)) => {
                let order = |bound: &Bound<K>| (&bound.at, !bound.is_in) < (&lower.at, !lower.is_in);
                let at = self.between.partition_point(|(bound, ..)| order(bound));
                self.between.insert(at, (lower.clone(), upper.clone(), id));
            }
            (None, None) => {}
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.above.retain(|(_, other)| *other != id);
        self.below.retain(|(_, other)| *other != id);
        self.between.retain(|(_, _, other)| *other != id);
    }

    pub(super) fn hits<Q: Ord + ?Sized>(&self, value: &Q, found: &mut Vec<u32>)
    where
        K: std::borrow::Borrow<Q>,
    {
        found.extend(self.above.iter().take_while(|(bound, _)| bound.is_below(value)).map(|(_, id)| *id));
        found.extend(self.below.iter().take_while(|(bound, _)| bound.is_above(value)).map(|(_, id)| *id));
        let from_below = self.between.iter().take_while(|(lower, ..)| lower.is_below(value));
        found.extend(from_below.filter(|(_, upper, _)| upper.is_above(value)).map(|(.., id)| *id));
    }
}

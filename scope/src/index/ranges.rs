//! Groups by a range that a value lies in.
//!
//! Owns ranges with one end, where every group that is looked at is a hit, and ranges with two, which are looked at from the
//! lowest on. Values are compared by their own order.

/// An end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End<K> {
    pub(crate) at: K,
    /// The value itself lies in the range.
    pub(crate) is_in: bool,
}

/// Ranges of one field's values.
#[derive(Debug, Clone)]
pub(super) struct Ranges<K> {
    /// From an end upwards, the lowest first.
    above: Vec<(End<K>, u32)>,
    /// From an end downwards, the highest first.
    below: Vec<(End<K>, u32)>,
    /// Between two, by the lower one.
    between: Vec<(End<K>, End<K>, u32)>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self { above: Vec::new(), below: Vec::new(), between: Vec::new() }
    }
}

impl<K: Ord> End<K> {
    fn is_below<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        let order = self.at.borrow().cmp(value);
        order.is_lt() || (order.is_eq() && self.is_in)
    }

    fn is_above<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        let order = self.at.borrow().cmp(value);
        order.is_gt() || (order.is_eq() && self.is_in)
    }
}

impl<K: Ord + Clone> Ranges<K> {
    pub(super) fn add(&mut self, lower: Option<&End<K>>, upper: Option<&End<K>>, id: u32) {
        match (lower, upper) {
            (Some(lower), None) => {
                // An end that is in comes before the same end that is not: what follows a miss are misses.
                let order = |end: &End<K>| (&end.at, !end.is_in) < (&lower.at, !lower.is_in);
                let place = self.above.partition_point(|(end, _)| order(end));
                self.above.insert(place, (lower.clone(), id));
            }
            (None, Some(upper)) => {
                let order = |end: &End<K>| (&end.at, end.is_in) > (&upper.at, upper.is_in);
                let place = self.below.partition_point(|(end, _)| order(end));
                self.below.insert(place, (upper.clone(), id));
            }
            (Some(lower), Some(upper)) => {
                let order = |end: &End<K>| (&end.at, !end.is_in) < (&lower.at, !lower.is_in);
                let place = self.between.partition_point(|(end, ..)| order(end));
                self.between.insert(place, (lower.clone(), upper.clone(), id));
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
        found.extend(self.above.iter().take_while(|(end, _)| end.is_below(value)).map(|(_, id)| *id));
        found.extend(self.below.iter().take_while(|(end, _)| end.is_above(value)).map(|(_, id)| *id));
        let from_below = self.between.iter().take_while(|(lower, ..)| lower.is_below(value));
        found.extend(from_below.filter(|(_, upper, _)| upper.is_above(value)).map(|(.., id)| *id));
    }
}

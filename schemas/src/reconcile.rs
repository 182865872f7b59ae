//! Reconciliation: digests of a replica's rows, by ranges of their keys' hashes.
//!
//! Owns the ranges, the digests and the query of a consumer. A row's digest is over its key and its values as text,
//! so that a table, a file and the register can be compared. A range's digest does not depend on the order of rows, and
//! rows can be removed from it as they were added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::avro::binary::DatumError;
use crate::avro::schema::{AvroSchema, SchemaError};
use crate::avro::text;
use crate::digest::hash128;
use crate::limits::{MAX_RANGE_BITS, MAX_RANGE_DIGESTS, MAX_RECONCILED_RANGES};

/// A row's values as text, in the order of the derived schema's fields.
pub type Texts = Vec<Option<String>>;

/// A query that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reconcile={0:?} is none of digests.<bits>.<ranges>, rows.<ranges>; ranges are <bits>:<numbers>")]
pub struct ReconcileQueryError(String);

/// Some ranges of keys. The first bits of a key's hash are the number of its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    bits: u8,
    numbers: BTreeSet<u32>,
}

impl Ranges {
    /// The one range that has all keys.
    pub fn whole() -> Self {
        Self { bits: 0, numbers: BTreeSet::from([0]) }
    }

    /// The ranges of these numbers, of so many bits. `None` for no ranges, too many, and ranges that do not exist.
    pub fn new(bits: u8, numbers: BTreeSet<u32>) -> Option<Self> {
        let last = *numbers.last()?;
        let exist = bits <= MAX_RANGE_BITS && last >> bits == 0;
        (exist && numbers.len() <= MAX_RECONCILED_RANGES).then_some(Self { bits, numbers })
    }

    /// How many bits a range's number has.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    pub const fn numbers(&self) -> &BTreeSet<u32> {
        &self.numbers
    }

    /// The range of a key, if it is one of these.
    pub fn of(&self, key: &str) -> Option<u32> {
        Some(first_bits(hash128(key.as_bytes()), self.bits)).filter(|number| self.numbers.contains(number))
    }
}

fn first_bits(hash: u128, bits: u8) -> u32 {
    let rest = 128_u32 - u32::from(bits);
    // With 0 bits, the shift is by the whole width.
    u32::try_from(hash.checked_shr(rest).unwrap_or(0)).unwrap_or(0)
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.bits)?;
        let mut before = 0;
        for (index, number) in self.numbers.iter().enumerate() {
            let dash = if index == 0 { "" } else { "-" };
            write!(f, "{dash}{:x}", number - before)?;
            before = *number;
        }
        Ok(())
    }
}

impl FromStr for Ranges {
    type Err = ReconcileQueryError;

    fn from_str(text: &str) -> Result<Self, ReconcileQueryError> {
        let wrong = || ReconcileQueryError(text.chars().take(80).collect());
        let (bits, steps) = text.split_once(':').ok_or_else(wrong)?;
        let mut numbers = BTreeSet::new();
        let mut number = 0_u32;
        for step in steps.split('-') {
            let step = u32::from_str_radix(step, 16).map_err(|_| wrong())?;
            number = number.checked_add(step).ok_or_else(wrong)?;
            if !numbers.insert(number) {
                return Err(wrong());
            }
        }
        Self::new(bits.parse().map_err(|_| wrong())?, numbers).ok_or_else(wrong)
    }
}

/// What a consumer asks of a router, to be answered at a position of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReconcileQuery {
    /// The digests of finer ranges within these.
    Digests {
        within: Ranges,
        /// The bits of a finer range's number.
        bits: u8,
    },
    /// All rows of some ranges.
    Rows { within: Ranges },
}

impl ReconcileQuery {
    /// A query for the digests of finer ranges; `None` where they are too many, or coarser.
    pub fn digests(within: Ranges, bits: u8) -> Option<Self> {
        let fits = bits >= within.bits && bits <= MAX_RANGE_BITS;
        (fits && within.numbers.len() << (bits - within.bits) <= MAX_RANGE_DIGESTS)
            .then_some(Self::Digests { within, bits })
    }

    pub const fn within(&self) -> &Ranges {
        match self {
            Self::Digests { within, .. } | Self::Rows { within } => within,
        }
    }
}

impl fmt::Display for ReconcileQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digests { within, bits } => write!(f, "digests.{bits}.{within}"),
            Self::Rows { within } => write!(f, "rows.{within}"),
        }
    }
}

impl FromStr for ReconcileQuery {
    type Err = ReconcileQueryError;

    fn from_str(text: &str) -> Result<Self, ReconcileQueryError> {
        let wrong = || ReconcileQueryError(text.chars().take(80).collect());
        if let Some(ranges) = text.strip_prefix("rows.") {
            return Ok(Self::Rows { within: ranges.parse()? });
        }
        let (bits, ranges) =
            text.strip_prefix("digests.").and_then(|rest| rest.split_once('.')).ok_or_else(wrong)?;
        let bits = bits.parse().map_err(|_| wrong())?;
        Self::digests(ranges.parse()?, bits).ok_or_else(wrong)
    }
}

/// A row's digest, over its key and its values, each with its length. Null and the empty text differ.
fn row_digest(key: &str, texts: &[Option<String>]) -> u128 {
    let mut hash = Sha256::new();
    for part in std::iter::once(Some(key)).chain(texts.iter().map(Option::as_deref)) {
        match part {
            None => hash.update([0]),
            Some(text) => {
                hash.update([1]);
                hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(text);
            }
        }
    }
    hash.finalize().iter().take(16).fold(0, |digest, byte| (digest << 8) | u128::from(*byte))
}

/// An image's values as text, each in its canonical spelling.
pub fn texts(derived: &AvroSchema, image: &[u8]) -> Result<Texts, DatumError> {
    let plain = text::texts(derived, image)?;
    spelt(derived, plain).map_err(|_| DatumError::Invalid { at: 0, what: "its schema is no record" })
}

/// The canonical spelling of values that were read from a row's columns.
pub fn spelt(derived: &AvroSchema, values: Texts) -> Result<Texts, SchemaError> {
    let record = derived.record()?.record;
    let each = record.fields.iter().zip(values);
    Ok(each.map(|(field, value)| value.map(|value| text::spelt(&field.schema, value))).collect())
}

/// The sum of rows' digests, for each range and for all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeDigests {
    bits: u8,
    within: Ranges,
    rows: u64,
    total: u128,
    by_range: BTreeMap<u32, u128>,
}

impl RangeDigests {
    /// Without rows yet, for all ranges of `bits` bits within others.
    pub fn new(within: Ranges, bits: u8) -> Self {
        let by_range = BTreeMap::new();
        Self { bits, within, rows: 0, total: 0, by_range }
    }

    /// Whether a key's row is in one of the ranges.
    pub fn counts(&self, key: &str) -> bool {
        self.within.of(key).is_some()
    }

    /// Adds a row; a row outside the ranges is ignored.
    pub fn add(&mut self, key: &str, texts: &[Option<String>]) {
        self.change(key, |total, rows| (total.wrapping_add(row_digest(key, texts)), rows.wrapping_add(1)));
    }

    /// Removes a row that was added.
    pub fn take_out(&mut self, key: &str, texts: &[Option<String>]) {
        self.change(key, |total, rows| (total.wrapping_sub(row_digest(key, texts)), rows.wrapping_sub(1)));
    }

    fn change(&mut self, key: &str, change: impl Fn(u128, u64) -> (u128, u64)) {
        if !self.counts(key) {
            return;
        }
        let number = first_bits(hash128(key.as_bytes()), self.bits);
        let digest = self.by_range.entry(number).or_default();
        (*digest, _) = change(*digest, 0);
        (self.total, self.rows) = change(self.total, self.rows);
    }

    /// The digests as they are announced.
    pub fn announce(&self) -> AnnouncedDigests {
        let fan = self.bits - self.within.bits;
        let children = |number: &u32| (number << fan)..((number + 1) << fan);
        let digest = |number| first_half(self.by_range.get(&number).copied().unwrap_or(0));
        let digests = self.within.numbers.iter().flat_map(children).map(digest).collect();
        AnnouncedDigests { rows: self.rows, total: self.total, digests }
    }

    /// The ranges whose digests differ from the announced ones; `None` where the number of ranges differs.
    pub fn differing(&self, announced: &AnnouncedDigests) -> Option<BTreeSet<u32>> {
        let own = self.announce();
        if own.digests.len() != announced.digests.len() {
            return None;
        }
        let fan = self.bits - self.within.bits;
        let numbers = self.within.numbers.iter().flat_map(|number| (number << fan)..((number + 1) << fan));
        let both = numbers.zip(own.digests.iter().zip(&announced.digests));
        Some(both.filter(|(_, (own, told))| own != told).map(|(number, _)| number).collect())
    }
}

fn first_half(digest: u128) -> u64 {
    u64::try_from(digest >> 64).unwrap_or(0)
}

/// Range digests as they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedDigests {
    pub rows: u64,
    /// The sum of all digests.
    pub total: u128,
    /// The first half of each range's digest, in the order of the ranges.
    pub digests: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(value: u8) -> Texts {
        vec![Some(value.to_string()), None]
    }

    #[test]
    fn questions_survive_their_text_and_no_other_is_read() {
        let some = Ranges::new(12, BTreeSet::from([0, 7, 4_095])).unwrap();
        for ask in [
            ReconcileQuery::digests(Ranges::whole(), 12).unwrap(),
            ReconcileQuery::digests(some.clone(), 22).unwrap(),
            ReconcileQuery::Rows { within: some.clone() },
        ] {
            assert_eq!(ask.to_string().parse(), Ok(ask));
        }
        assert_eq!(ReconcileQuery::Rows { within: some }.to_string(), "rows.12:0-7-ff8");
        for bad in [
            "",
            "digests",
            "digests.13.0:0",
            "digests.3.4:1",
            "rows.4:10",
            "rows.4:1-0",
            "rows.26:1",
            "rows.4:",
        ] {
            assert!(bad.parse::<ReconcileQuery>().is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_RECONCILED_RANGES).map(|_| "1".to_owned()).collect();
        assert!(format!("rows.20:{}", many.join("-")).parse::<ReconcileQuery>().is_err());
    }

    #[test]
    fn a_digest_is_the_published_one_and_tells_null_from_empty() {
        // Fixed: a change of this value is a change of the protocol.
        assert_eq!(format!("{:032x}", row_digest("k", &row(1))), "fe9304a7e08881585aa6311ae8706018");
        assert_ne!(row_digest("k", &[None]), row_digest("k", &[Some(String::new())]));
        assert_ne!(
            row_digest("k", &[Some("ab".into()), None]),
            row_digest("k", &[Some("a".into()), Some("b".into())])
        );
    }

    proptest! {
        #[test]
        fn digests_know_which_ranges_differ_and_nothing_of_the_order(
            rows in prop::collection::btree_map("[a-z]{1,4}", any::<u8>(), 0..60),
            changed in prop::collection::btree_map("[a-z]{1,4}", prop::option::of(any::<u8>()), 0..6),
            bits in 0_u8..8,
        ) {
            let digests_of = |rows: &BTreeMap<String, u8>, backwards: bool| {
                let mut digests = RangeDigests::new(Ranges::whole(), bits);
                let mut all: Vec<_> = rows.iter().collect();
                if backwards { all.reverse(); }
                all.into_iter().for_each(|(key, value)| digests.add(key, &row(*value)));
                digests
            };
            let first = digests_of(&rows, false);
            prop_assert_eq!(&first, &digests_of(&rows, true));
            let mut other = rows.clone();
            let mut rolled = first.clone();
            let mut differing = BTreeSet::new();
            for (key, value) in &changed {
                let before = other.get(key).copied();
                if let Some(before) = before { rolled.take_out(key, &row(before)); }
                match value {
                    Some(value) => { other.insert(key.clone(), *value); rolled.add(key, &row(*value)); }
                    None => { other.remove(key); }
                }
                if before != *value { differing.insert(first_bits(hash128(key.as_bytes()), bits)); }
            }
            let second = digests_of(&other, false);
            prop_assert_eq!(rolled.announce(), second.announce());
            prop_assert_eq!(first.differing(&second.announce()), Some(differing.clone()));
            if let Some(within) = Ranges::new(bits, differing) {
                let mut finer = [RangeDigests::new(within.clone(), bits + 2), RangeDigests::new(within.clone(), bits + 2)];
                rows.iter().for_each(|(key, value)| finer[0].add(key, &row(*value)));
                other.iter().for_each(|(key, value)| finer[1].add(key, &row(*value)));
                let found = finer[0].differing(&finer[1].announce()).unwrap();
                let parents: BTreeSet<u32> = found.iter().map(|number| number >> 2).collect();
                prop_assert_eq!(&parents, within.numbers());
            }
        }
    }
}

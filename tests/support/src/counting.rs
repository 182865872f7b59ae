//! The counting rule by code of its own (docs/protocol.md, 2): which records of a partition count, for tests that judge the
//! real code.
//!
//! Owns one partition's current epoch, sequence and digest. It must share nothing with `schemas::epoch_table`.

use schemas::digest;
use schemas::epoch_table::Opening;
use schemas::framing;
use schemas::ids::{AgentId, Digest, Epoch};
use schemas::record::{Kind, Provenance, Record};
use sha2::{Digest as _, Sha256};

/// The kind of a record that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts<'r> {
    /// So many changes, one datum behind the other.
    Changes { count: u32, datums: &'r [u8] },
    /// All consumers must start over.
    Resync,
}

/// An Avro array in one run: how many items it has, and their bytes.
pub fn array(datum: &[u8]) -> Option<(u32, &[u8])> {
    let (mut raw, mut shift) = (0_u64, 0);
    for (index, byte) in datum.iter().enumerate().take(5) {
        raw |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            // The zig-zag form of a positive number is even.
            let count =
                u32::try_from(raw >> 1).ok().filter(|count| raw & 1 == 0 && (1..=2_000).contains(count))?;
            return datum.get(index + 1..datum.len() - 1).map(|items| (count, items));
        }
    }
    None
}

/// A link of the digest chain.
fn chained(before: Digest, datum: &[u8]) -> Digest {
    let length = u64::try_from(datum.len()).unwrap_or(u64::MAX).to_be_bytes();
    let hash = Sha256::digest([before.as_bytes().as_slice(), &length, datum].concat());
    Digest::new(std::array::from_fn(|index| hash.get(index).copied().unwrap_or_default()))
}

/// One partition of a distribution channel's log, from its beginning.
#[derive(Debug, Default)]
pub struct Counter {
    current: Option<(AgentId, Epoch)>,
    next: u64,
    digest: Option<Digest>,
}

impl Counter {
    /// The digest of the last record that counted, or of the epoch's beginning.
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Passes the next record; its kind, if it counts and says something to others.
    pub fn pass<'r>(&mut self, record: &'r Record) -> Option<Counts<'r>> {
        let (_, datum) = framing::unframe(record.value.as_deref()?).ok()?;
        match Kind::of(record)? {
            Kind::Opening => {
                let opening = Opening::decode(datum).ok()?;
                if opening.replaces == self.current.as_ref().map(|(_, epoch)| *epoch) {
                    self.current = Some((opening.agent, opening.epoch));
                    (self.next, self.digest) = (0, Some(digest::first(opening.epoch)));
                }
                None
            }
            kind @ (Kind::Block | Kind::Freshness) => {
                let said = Provenance::of(record)?;
                let is_current = self
                    .current
                    .as_ref()
                    .is_some_and(|(agent, epoch)| (agent, epoch) == (&said.agent, &said.epoch));
                let block = if kind == Kind::Block { array(datum)? } else { (1, datum) };
                let continued = self.digest.map(|before| chained(before, datum));
                if !is_current || said.sequence.get() != self.next || continued != Some(said.digest) {
                    return None;
                }
                let (count, datums) = block;
                if said.count != count {
                    return None;
                }
                (self.next, self.digest) = (self.next + u64::from(count), continued);
                (kind == Kind::Block).then_some(Counts::Changes { count, datums })
            }
            Kind::Checkpoint | Kind::Images => None,
            Kind::Resync => Some(Counts::Resync),
        }
    }
}

//! The counting rule by code of its own (protocols, 2): which records of a partition count, for tests that judge the
//! real code.
//!
//! Owns one partition's current epoch, sequence and digest. It must share nothing with `schemas::epoch_table`.

use schemas::digest;
use schemas::epoch_table::Opening;
use schemas::framing;
use schemas::ids::{AgentId, Digest, Epoch};
use schemas::record::{Kind, Provenance, Record};

/// The kind of a record that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts<'r> {
    /// A change, with its datum.
    Change(&'r [u8]),
    /// All consumers must start over.
    Resync,
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
            kind @ (Kind::Change | Kind::Freshness) => {
                let said = Provenance::of(record)?;
                let is_current = self
                    .current
                    .as_ref()
                    .is_some_and(|(agent, epoch)| (agent, epoch) == (&said.agent, &said.epoch));
                let key = record.key.as_deref().unwrap_or_default();
                let continued = self.digest.map(|before| digest::next(before, key, datum));
                if !is_current || said.sequence.get() != self.next || continued != Some(said.digest) {
                    return None;
                }
                (self.next, self.digest) = (self.next + 1, continued);
                (kind == Kind::Change).then_some(Counts::Change(datum))
            }
            Kind::Checkpoint => None,
            Kind::Resync => Some(Counts::Resync),
        }
    }
}

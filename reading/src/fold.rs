//! The meaning of a partition's records, one after another: the fold that every reader makes.
//!
//! Owns the epoch table, its checkpoint, and the source's freshness. Pure: record in, meaning out.

use event_log::Stored;
use schemas::block;
use schemas::channel::ChannelKind;
use schemas::epoch_table::{EpochTable, Opening, Skip};
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::marks::{Checkpoint, Freshness, Resync};
use schemas::record::{Kind, Provenance};
use schemas::time::Millis;

/// What a record means to its readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning<'r> {
    /// A block of changes that counts.
    Block {
        schema: SchemaId,
        /// Its bare datum.
        datum: &'r [u8],
    },
    Opening,
    /// The provider has checked its source.
    Freshness,
    /// A checkpoint, which readers may begin at.
    Checkpoint,
    /// Every reader must start over.
    Resync(String),
    /// It does not count.
    Skipped(Skip),
    /// It is not one of our records.
    Foreign(&'static str),
}

/// The fold of a partition up to some offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    kind: ChannelKind,
    /// The epoch table: it decides what counts next.
    pub table: EpochTable,
    /// The newest checkpoint record that was passed.
    pub checkpoint: Offset,
    /// The newest opening that counted since the fold began.
    pub opened: Option<Offset>,
    /// The time up to which the provider has checked its source.
    pub freshness: Option<Millis>,
    /// When the log appended the newest record that the fold has passed since it began.
    pub passed_at: Option<Millis>,
}

impl Fold {
    /// The fold at a checkpoint's `as_of`, found in the checkpoint record at `at`.
    pub fn begin(kind: ChannelKind, at: Offset, checkpoint: Checkpoint) -> Self {
        Self {
            kind,
            table: checkpoint.table,
            checkpoint: at,
            opened: None,
            freshness: checkpoint.freshness,
            passed_at: None,
        }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.table.size()
    }

    /// Takes the next record.
    pub fn step<'r>(&mut self, stored: &'r Stored) -> Meaning<'r> {
        let record = &stored.record;
        self.passed_at = Some(stored.logged_at);
        let Some(kind) = Kind::of(record) else { return Meaning::Foreign("it has no dit_kind") };
        let Some(value) = record.value.as_deref() else { return Meaning::Foreign("it has no value") };
        let Ok((schema, datum)) = framing::unframe(value) else {
            return Meaning::Foreign("it is not framed");
        };
        match kind {
            Kind::Opening => match Opening::decode(datum) {
                Ok(opening) => match self.table.open(self.kind, &opening) {
                    Ok(()) => {
                        self.opened = Some(stored.offset);
                        Meaning::Opening
                    }
                    Err(skip) => Meaning::Skipped(skip),
                },
                Err(_) => Meaning::Foreign("it is no opening"),
            },
            Kind::Checkpoint => match Checkpoint::decode(datum) {
                Ok(_) => {
                    self.checkpoint = stored.offset;
                    Meaning::Checkpoint
                }
                Err(_) => Meaning::Foreign("it is no checkpoint"),
            },
            Kind::Resync => match Resync::decode(datum) {
                Ok(resync) => Meaning::Resync(resync.reason),
                Err(_) => Meaning::Foreign("it is no resync record"),
            },
            Kind::Block | Kind::Freshness => self.sequenced(stored, kind, schema, datum),
            Kind::Images => Meaning::Foreign("images belong to the state"),
        }
    }

    fn sequenced<'r>(
        &mut self,
        stored: &Stored,
        kind: Kind,
        schema: SchemaId,
        datum: &'r [u8],
    ) -> Meaning<'r> {
        let Some(provenance) = Provenance::of(&stored.record) else {
            return Meaning::Foreign("its sequence headers are missing");
        };
        let events = if kind == Kind::Block { block::count(datum) } else { Ok(1) };
        if events != Ok(provenance.count) {
            return Meaning::Foreign("it has another number of events than its headers say");
        }
        if let Err(skip) = self.table.count(self.kind, &provenance, datum) {
            return Meaning::Skipped(skip);
        }
        if kind == Kind::Block {
            return Meaning::Block { schema, datum };
        }
        match Freshness::decode(datum) {
            Ok(freshness) => {
                self.freshness = Some(freshness.at);
                Meaning::Freshness
            }
            Err(_) => Meaning::Foreign("it is no freshness record"),
        }
    }
}

//! A block of changes that counts, with the ranges of its images' fields.
//!
//! Owns the check that a block has changes of its schema, which is made once for all readers of the block.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use event_log::Stored;
use schemas::avro::binary::DatumError;
use schemas::change::{BlockTable, ChangeCodec, PlacedChange};
use schemas::ids::{Offset, SchemaId};
use schemas::position::EventPosition;
use schemas::publish;
use schemas::record::TRACES_HEADER;
use schemas::time::Millis;
use schemas::trace::TraceContext;

/// A block of changes that counts.
#[derive(Debug)]
pub struct LocatedBlock {
    pub offset: Offset,
    /// When the log took it.
    pub logged_at: Millis,
    pub schema: SchemaId,
    codec: Arc<ChangeCodec>,
    datum: Bytes,
    table: BlockTable,
    /// The traces of its traced changes, by index.
    traces: BTreeMap<usize, TraceContext>,
}

/// A change event of a block that counts.
#[derive(Debug, Clone, Copy)]
pub struct LocatedChange<'b> {
    /// Its position in the partition.
    pub position: EventPosition,
    /// When the log took its block.
    pub logged_at: Millis,
    pub schema: SchemaId,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
    pub change: PlacedChange<'b>,
    codec: &'b Arc<ChangeCodec>,
}

impl LocatedBlock {
    /// Checks that a record's value is a framed block of changes of its schema, and locates each. `datum_at` is where the
    /// frame ends.
    pub fn locate(
        stored: Stored,
        schema: SchemaId,
        codec: Arc<ChangeCodec>,
        datum_at: usize,
    ) -> Result<Self, DatumError> {
        let Stored { offset, logged_at, record } = stored;
        let traces = record.header_text(TRACES_HEADER).map(publish::traces).unwrap_or_default();
        let value = Bytes::from(record.value.unwrap_or_default());
        let datum = value.slice(datum_at.min(value.len())..);
        let table = codec.locate_block(&datum)?;
        Ok(Self { offset, logged_at, schema, codec, datum, table, traces })
    }

    /// How many changes it has; never 0.
    pub const fn count(&self) -> usize {
        self.table.len()
    }

    /// Bytes of memory, with the places of its changes.
    pub const fn size(&self) -> usize {
        self.datum.len() + self.table.size()
    }

    /// Its changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = LocatedChange<'_>> {
        (0..).map_while(|index| self.change(index))
    }

    /// A change by its index.
    pub fn change(&self, index: u32) -> Option<LocatedChange<'_>> {
        let position = EventPosition { offset: self.offset, index };
        let index = usize::try_from(index).ok()?;
        Some(LocatedChange {
            position,
            logged_at: self.logged_at,
            schema: self.schema,
            // Most blocks have none.
            trace: self.traces.get(&index).copied(),
            change: self.table.get(index, &self.datum)?,
            codec: &self.codec,
        })
    }

    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        &self.codec
    }
}

impl LocatedChange<'_> {
    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        self.codec
    }
}

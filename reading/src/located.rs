//! A change event that counts, with the ranges of its images' fields.
//!
//! Owns the check that a block has changes of its schema, which is made once for all readers of the block.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use event_log::Stored;
use schemas::avro::binary::DatumError;
use schemas::change::{BlockChange, Change, ChangeCodec, ImageRanges, Images, Op};
use schemas::ids::SchemaId;
use schemas::position::EventPosition;
use schemas::publish;
use schemas::record::TRACES_HEADER;
use schemas::time::Millis;
use schemas::trace::TraceContext;

/// A change event that counts.
#[derive(Debug)]
pub struct LocatedChange {
    /// Its position in the partition.
    pub position: EventPosition,
    /// When the log took it.
    pub logged_at: Millis,
    pub schema: SchemaId,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
    /// The kind of the change.
    pub op: Op,
    pub key: String,
    pub event_at: Millis,
    codec: Arc<ChangeCodec>,
    /// The whole block's datum, which its changes share.
    block: Bytes,
    range: Range<usize>,
    images: ImageRanges,
}

/// Checks that a datum is a block of changes of its schema, and locates each.
pub fn locate(
    stored: &Stored,
    schema: SchemaId,
    codec: &Arc<ChangeCodec>,
    datum: &[u8],
) -> Result<Vec<LocatedChange>, DatumError> {
    let block = Bytes::copy_from_slice(datum);
    let mut traces = stored.record.header_text(TRACES_HEADER).map(publish::traces).unwrap_or_default();
    let mut located = Vec::new();
    for (index, found) in (0..).zip(codec.decode_block(datum)?) {
        let BlockChange { change, images, range } = found;
        located.push(LocatedChange {
            position: EventPosition { offset: stored.offset, index },
            logged_at: stored.logged_at,
            schema,
            trace: usize::try_from(index).ok().and_then(|index| traces.remove(&index)),
            op: change.op,
            key: change.key.to_owned(),
            event_at: change.event_at,
            codec: Arc::clone(codec),
            block: block.clone(),
            range,
            images,
        });
    }
    Ok(located)
}

impl LocatedChange {
    pub fn change(&self) -> Result<Change<'_>, DatumError> {
        self.codec.decode_all(self.block.get(self.range.clone()).unwrap_or_default())
    }

    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        &self.codec
    }

    /// Its images, with the ranges of their fields.
    pub fn images(&self) -> Images<'_> {
        self.images.of(&self.block)
    }
}

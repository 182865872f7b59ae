//! A change event that counts, with the ranges of its images' fields.
//!
//! Owns the check that a datum is a change of its schema, which is made once for all readers of the event.

use std::sync::Arc;

use event_log::Stored;
use schemas::avro::binary::DatumError;
use schemas::change::{Change, ChangeCodec, ImageRanges, Images, Op};
use schemas::ids::{Offset, SchemaId};
use schemas::time::Millis;
use schemas::trace::TraceContext;

/// A change event that counts.
#[derive(Debug)]
pub struct LocatedChange {
    /// Its offset in the log.
    pub offset: Offset,
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
    datum: Vec<u8>,
    images: ImageRanges,
}

impl LocatedChange {
    /// Checks that the datum is a change of its schema.
    pub fn new(
        stored: &Stored,
        schema: SchemaId,
        codec: Arc<ChangeCodec>,
        datum: Vec<u8>,
    ) -> Result<Self, DatumError> {
        let (change, images) = codec.locate(&datum)?;
        let op = change.op;
        let key = change.key.to_owned();
        let event_at = change.event_at;
        Ok(Self {
            offset: stored.offset,
            logged_at: stored.logged_at,
            schema,
            trace: stored.record.trace(),
            op,
            key,
            event_at,
            codec,
            datum,
            images,
        })
    }

    pub fn change(&self) -> Result<Change<'_>, DatumError> {
        self.codec.decode_all(&self.datum)
    }

    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        &self.codec
    }

    /// Its images, with the ranges of their fields.
    pub fn images(&self) -> Images<'_> {
        self.images.of(&self.datum)
    }
}

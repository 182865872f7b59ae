//! The permit: a type for what may leave.
//!
//! Owns `Permitted`, which only the decision in `scope` can make. The delivery path takes nothing else: code that
//! skips the decision does not compile.

use schemas::change::Op;
use schemas::delivery::{Delivery, DeliveryCodec, Event, Reason};
use schemas::ids::Partition;
use schemas::position::EventPosition;
use schemas::time::Millis;
use schemas::trace::TraceContext;

/// Something that an agreement lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted<T>(T);

impl<T> Permitted<T> {
    /// Only the decision calls this.
    pub(crate) const fn new(inner: T) -> Self {
        Self(inner)
    }

    /// To read; nothing can replace the inner value.
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// An event as its consumer may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) op: Op,
    pub(crate) key: String,
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) reason: Reason,
}

impl Outcome {
    /// The operation as the consumer sees it.
    pub const fn op(&self) -> Op {
        self.op
    }

    /// Why it is delivered.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The key as the consumer sees it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The image as the consumer sees it: a datum of the derived schema.
    pub fn after(&self) -> Option<&[u8]> {
        self.after.as_deref()
    }
}

/// An event's position and times in the log: what a delivery has in addition to the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMetadata {
    pub partition: Partition,
    pub position: EventPosition,
    pub event_at: Millis,
    /// When the log took it.
    pub logged_at: Millis,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

impl Permitted<Outcome> {
    /// Appends the delivery's datum.
    pub fn encode(&self, metadata: RecordMetadata, out: &mut Vec<u8>) {
        let event = Event {
            op: self.0.op,
            key: &self.0.key,
            after: self.0.after.as_deref(),
            reason: self.0.reason,
            partition: metadata.partition,
            position: metadata.position,
            event_at: metadata.event_at,
            logged_at: metadata.logged_at,
            trace: metadata.trace,
        };
        DeliveryCodec::encode(&Delivery::Event(event), out);
    }
}

impl Outcome {
    /// Appends the delivery of a range: all its rows at the stream's position.
    pub fn encode_range<'a>(
        number: u32,
        rows: impl IntoIterator<Item = &'a Permitted<Self>>,
        out: &mut Vec<u8>,
    ) {
        let row = |row: &'a Permitted<Self>| Some((row.0.key.as_str(), row.0.after.as_deref()?));
        let rows = rows.into_iter().filter_map(row).collect();
        DeliveryCodec::encode(&Delivery::Range { number, rows }, out);
    }
}

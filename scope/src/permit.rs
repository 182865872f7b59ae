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

use crate::denial::Denial;

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

/// Bytes of memory that cleared deliveries keep: most images are smaller.
const KEPT_BYTES: usize = 16 * 1024;

/// Deliveries as bytes, one after the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Deliveries {
    bytes: Vec<u8>,
    /// Where each ends, and why its consumer gets it.
    ends: Vec<(usize, Reason)>,
}

/// A delivery as bytes: a datum of the stream's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenDelivery<'d> {
    pub bytes: &'d [u8],
    pub reason: Reason,
}

impl Permitted<Deliveries> {
    /// No delivery: only the decision adds some.
    pub fn none() -> Self {
        Self(Deliveries::default())
    }

    /// Forgets all, and keeps some memory.
    pub fn clear(&mut self) {
        self.0.bytes.clear();
        self.0.bytes.shrink_to(KEPT_BYTES);
        self.0.ends.clear();
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Bytes of memory that they take.
    pub const fn size(&self) -> usize {
        self.0.bytes.capacity() + self.0.ends.capacity() * size_of::<(usize, Reason)>()
    }

    /// Gives back the memory that they do not use: those of a chunk are kept for a while.
    pub fn shrink(&mut self) {
        self.0.bytes.shrink_to_fit();
        self.0.ends.shrink_to_fit();
    }

    /// A delivery by its number, in the order in which they were added.
    pub fn delivery(&self, index: usize) -> Option<Permitted<WrittenDelivery<'_>>> {
        let (end, reason) = *self.0.ends.get(index)?;
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.0.ends.get(before)?.0,
        };
        Some(Permitted(WrittenDelivery { bytes: self.0.bytes.get(start..end)?, reason }))
    }

    /// Only the decision calls this.
    pub(crate) fn add(
        &mut self,
        event: &Event<'_>,
        put_image: impl FnOnce(&mut Vec<u8>) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let Deliveries { bytes, ends } = &mut self.0;
        DeliveryCodec::encode_event(event, put_image, bytes)?;
        ends.push((bytes.len(), event.reason));
        Ok(())
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

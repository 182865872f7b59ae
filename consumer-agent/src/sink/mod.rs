//! Sinks: where the replica lives.
//!
//! Owns the narrow sink trait. A sink applies a batch's effects and its cursor together, or neither.

pub mod effect;
pub mod error;
pub mod file;
pub mod postgres;

use async_trait::async_trait;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Cursor;
use schemas::reconcile::Texts;
use schemas::time::Millis;

use self::effect::Effect;
use self::error::SinkError;

/// What the beginning of a stream declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHead {
    /// The schema of its images.
    pub derived: AvroSchema,
}

/// Effects to be applied together with the cursor that they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub effects: Vec<Effect>,
    /// The consumer's position after the batch, perhaps in a snapshot; `None` where it is not known.
    pub cursor: Option<Cursor>,
    /// The time up to which the provider has checked its source.
    pub freshness: Option<Millis>,
}

/// Is called with each row's key and texts.
pub type See<'s> = dyn FnMut(&str, Texts) + Send + 's;

/// What keeps one agreement's replica.
#[async_trait]
pub trait Sink: Send {
    /// Its name in traces (`db.system.name` of the conventions).
    fn system(&self) -> &'static str;
    /// Makes the sink ready for a stream; after an error it reads its own state again.
    async fn ready(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// Where to continue, perhaps in a snapshot; `None` when it must begin with the state.
    fn cursor(&self) -> Option<Cursor>;
    /// A stream begins.
    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError>;
    /// Applies a batch.
    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError>;
    /// Makes all applied batches durable, and visible to others.
    async fn settle(&mut self) -> Result<(), SinkError>;
    /// Shows every row as the replica's readers find it: its key, and its values as text in the order of the fields.
    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError>;
    /// How many rows the replica has.
    fn row_count(&self) -> usize;
    /// How many keys are parked because the sink refuses their row; other keys are still written.
    fn parked_count(&self) -> usize {
        0
    }
}

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

/// What a stream says at its beginning.
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
    /// Where the consumer stands afterwards, perhaps in a snapshot; `None` where that was not told.
    pub cursor: Option<Cursor>,
    /// Up to when the provider has looked at its source.
    pub freshness: Option<Millis>,
}

/// Sees rows, one by one.
pub type See<'s> = dyn FnMut(&str, Texts) + Send + 's;

/// What keeps one agreement's replica.
#[async_trait]
pub trait Sink: Send {
    /// What it is called in traces (`db.system.name` of the conventions).
    fn system(&self) -> &'static str;
    /// Makes it ready for a stream: what an error left unknown is looked at again.
    async fn ready(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// Where to go on, perhaps in a snapshot; `None` when it must begin with the state.
    fn cursor(&self) -> Option<Cursor>;
    /// A stream begins.
    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError>;
    /// Applies a batch.
    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError>;
    /// Makes what was applied durable, and visible to others.
    async fn settle(&mut self) -> Result<(), SinkError>;
    /// Shows every row as its readers find it, by key: its values as text, in the order of the stream's fields.
    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError>;
    /// How many rows the replica has.
    fn row_count(&self) -> usize;
    /// How many keys have a row that the sink refuses: they stand still, the others flow.
    fn parked_count(&self) -> usize {
        0
    }
}

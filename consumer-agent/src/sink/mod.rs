//! Sinks: where the replica lives.
//!
//! Owns the narrow sink trait. A sink applies a batch's effects and its cursor together, or neither.

pub mod file;
pub mod postgres;
mod rows;

use async_trait::async_trait;
use platform::segments::SegmentError;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Cursor;
use schemas::reconcile::Texts;
use schemas::time::Millis;

use crate::receive::machine::Effect;

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
    /// Where the consumer stands afterwards, perhaps in a pass from the state; `None` where that was not told.
    pub cursor: Option<Cursor>,
    /// Up to when the provider has looked at its source.
    pub freshness: Option<Millis>,
}

/// Why a sink refused.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its segments.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A file could not be written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Its own record cannot be read.
    #[error(
        "the sink's record {position} cannot be read: {problem}; set the folder aside, the agent resyncs"
    )]
    Record {
        /// Its position.
        position: u64,
        /// What is wrong.
        problem: String,
    },
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] postgres::PostgresError),
    /// A row cannot be written as the sink's own.
    #[error("a row does not follow the stream's schema: {0}")]
    Row(#[from] schemas::avro::binary::DatumError),
}

impl SinkError {
    /// Whether trying again is of no use before a person has done something.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Postgres(error) => error.needs_a_person(),
            Self::Row(_) => true,
            Self::Segment(_) | Self::Io { .. } | Self::Record { .. } => false,
        }
    }
}

/// Sees rows, one by one.
pub type See<'s> = dyn FnMut(&str, Texts) + Send + 's;

/// A place for one agreement's replica.
#[async_trait]
pub trait Sink: Send {
    /// What it is called in traces (`db.system.name` of the conventions).
    fn system(&self) -> &'static str;
    /// Makes it ready for a stream: what an error left unknown is looked at again.
    async fn ready(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// Where to go on, perhaps in a pass from the state; `None` when it must begin with the state.
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
    /// How many keys have a row that the place refuses: they stand still, the others flow.
    fn parked_count(&self) -> usize {
        0
    }
}

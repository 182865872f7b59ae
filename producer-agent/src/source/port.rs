//! What the agent asks of a source, whatever it is: a dropped file, a local request, later a database.
//!
//! Owns the port: what a source is called, whether it has the whole register or changes of it, and its rows. A source
//! knows no image and no outbox. When the agent has taken it, all of it is safe on the agent's disk: only then may a
//! source be told that it was taken (a file is moved, a request is answered, a position is confirmed).

use schemas::avro::schema::AvroSchema;
use schemas::key::{Key, KeySpec};

use super::location::Location;
use super::row::{Extent, Parked};

/// What the rows of a source mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The whole register: what it does not name is gone.
    Register,
    /// Changes in their order: what it does not name is as it was.
    Changes,
}

/// Something that a registry hands over.
pub trait Source {
    /// Its kind, for the source block of its events.
    fn kind(&self) -> &'static str;
    /// Its name, for the source block and for people; empty where it has none.
    fn name(&self) -> &str;
    /// What its rows mean.
    fn content(&self) -> Content;
    /// Its rows from the first on, brought to a channel's schema and key. Whoever asks again gets the same ones again.
    fn rows(&self, schema: &AvroSchema, key: &KeySpec) -> Result<Box<dyn Rows + '_>, SourceError>;
}

/// Rows of a source, in its order. Each that is there is given: one that cannot be read is [`SourceRow::Parked`].
pub trait Rows: Iterator<Item = SourceRow> {
    /// What is to be said of the rows that were given so far.
    fn notes(&self) -> Notes;
}

/// One row of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRow {
    /// The row is so.
    Present {
        location: Location,
        key: Key,
        /// Its bare datum, in the channel's schema.
        datum: Vec<u8>,
    },
    /// The row is gone; only changes say so.
    Deleted { location: Location, key: Key },
    /// It is set aside.
    Parked {
        /// The key, where it can be read.
        key: Option<Key>,
        parked: Parked,
        extent: Extent,
    },
}

/// What a person should know of a source, though it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notes {
    /// Rows that were given, good or not.
    pub rows: u64,
    /// Sentences.
    pub remarks: Vec<String>,
    /// Columns that stand for no field.
    pub ignored_columns: Vec<String>,
}

/// Why nothing of a source can be taken.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read, or it does not fit the channel.
    #[error(transparent)]
    Unfit(Box<dyn std::error::Error + Send + Sync>),
    /// It is not whole, or nothing in it can be relied on.
    #[error("{name}: {problem}; nothing of it was taken: correct it and drop it again")]
    Unreliable {
        name: String,
        /// What was seen, and where.
        problem: String,
    },
}

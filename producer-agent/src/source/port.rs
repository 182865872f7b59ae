//! What the agent asks of any source: a dropped file, a local request, later a database.
//!
//! Owns the port: a source's name, whether it has the whole register or changes of it, and its rows. A source knows no
//! image and no outbox. The agent may confirm a source (move a file, answer a request, confirm a position) only when
//! all of it is safe on the agent's disk.

use schemas::avro::schema::AvroSchema;
use schemas::key::{Key, KeySpec};

use super::location::Location;
use super::row::{Extent, Parked};

/// What the rows of a source mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The whole register: a row that it does not name was removed.
    Register,
    /// Changes in their order: a row that they do not name is unchanged.
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
    /// Its rows from the first on, in a channel's schema and with its key. Every call gives the same rows.
    fn rows(&self, schema: &AvroSchema, key: &KeySpec) -> Result<Box<dyn Rows + '_>, SourceError>;
}

/// Rows of a source, in its order. None is left out: a row that cannot be read is [`SourceRow::Parked`]. They may be read
/// on another thread.
pub trait Rows: Send {
    /// The next row, in memory that the one after it takes again; `None` at the end.
    fn next_row(&mut self) -> Option<SourceRow<'_>>;
    /// Notes about the rows that were given so far.
    fn notes(&self) -> Notes;
}

/// One row of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRow<'r> {
    /// The row exists, with this datum.
    Present {
        location: Location,
        key: Key<'r>,
        /// Its bare datum, in the channel's schema.
        datum: &'r [u8],
    },
    /// The row was deleted; only changes have this.
    Deleted { location: Location, key: Key<'r> },
    Parked {
        /// The key, where it can be read.
        key: Option<Key<'r>>,
        parked: Parked,
        extent: Extent,
    },
}

/// What a person should know about a source that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notes {
    /// Rows that were given, good or not.
    pub rows: u64,
    /// Sentences.
    pub remarks: Vec<String>,
    /// Columns without a field.
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

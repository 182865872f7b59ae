//! Why a sink refused, and what its agent must do.

use std::error::Error;

use platform::segments::SegmentError;
use schemas::avro::binary::DatumError;

/// What an agent can do about a sink's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkErrorClass {
    /// The same batch may succeed later: try again.
    Transient,
    /// Another try is useless until a person has acted.
    Person,
    /// A sync failed: only a restart of the process finds out what is on the disk.
    Poisoned,
}

/// Why a sink refused.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct SinkError {
    /// What can be done about it.
    pub class: SinkErrorClass,
    source: Box<dyn Error + Send + Sync>,
}

impl SinkError {
    /// An error that may pass by itself.
    pub fn transient(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class: SinkErrorClass::Transient, source: source.into() }
    }

    /// An error that needs a person.
    pub fn for_a_person(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class: SinkErrorClass::Person, source: source.into() }
    }
}

impl From<SegmentError> for SinkError {
    fn from(error: SegmentError) -> Self {
        let class = match error {
            SegmentError::Poisoned { .. } => SinkErrorClass::Poisoned,
            _ => SinkErrorClass::Transient,
        };
        Self { class, source: error.into() }
    }
}

/// A row that does not follow the stream's schema.
#[derive(Debug, thiserror::Error)]
#[error("a row does not follow the stream's schema: {0}")]
struct Unreadable(DatumError);

impl From<DatumError> for SinkError {
    fn from(error: DatumError) -> Self {
        Self::for_a_person(Unreadable(error))
    }
}

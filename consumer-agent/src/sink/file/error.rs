//! Why a file sink refused.

use platform::segments::SegmentError;
use schemas::avro::binary::DatumError;

use crate::sink::error::SinkError;

/// Why a file sink refused.
#[derive(Debug, thiserror::Error)]
pub enum FileSinkError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A file could not be written.
    #[error("{path}: {error}")]
    Io {
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// One of the sink's own records cannot be read.
    #[error(
        "the sink's record {position} cannot be read: {problem}; set the folder aside, and the agent receives it anew"
    )]
    Record { position: u64, problem: String },
    /// A row cannot be written as text.
    #[error(transparent)]
    Row(#[from] DatumError),
}

impl FileSinkError {
    /// Whether the files are damaged: they can be set aside, and the replica received anew.
    pub(super) const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Record { .. } | Self::Segment(SegmentError::Damaged { .. } | SegmentError::Gap { .. })
        )
    }
}

impl From<FileSinkError> for SinkError {
    fn from(error: FileSinkError) -> Self {
        match error {
            FileSinkError::Segment(error) => error.into(),
            FileSinkError::Row(error) => error.into(),
            FileSinkError::Io { .. } | FileSinkError::Record { .. } => Self::transient(error),
        }
    }
}

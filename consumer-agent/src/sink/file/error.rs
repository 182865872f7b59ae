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
        /// What the system said.
        error: std::io::Error,
    },
    /// Its own record cannot be read.
    #[error(
        "the sink's record {position} cannot be read: {problem}; set the folder aside, and the agent receives it anew"
    )]
    Record { position: u64, problem: String },
    /// A row cannot be written as text.
    #[error(transparent)]
    Row(#[from] DatumError),
}

impl FileSinkError {
    /// Whether what is on the disk is damaged: it can be set aside, and received anew.
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

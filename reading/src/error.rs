//! Why a partition cannot be read on.
//!
//! Owns the difference between what a person has to repair and what repairs itself.

use event_log::TopicError;
use schemas::framing::FrameError;
use schemas::ids::{Offset, Partition};

use crate::codecs::CodecError;

/// Why a partition cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The topic is not the one that the channel was created with.
    #[error(
        "lost_topic: {topic}, partition {partition}: {why}; restore the topic, or declare a channel of another name, with new agreements"
    )]
    LostTopic { topic: String, partition: Partition, why: String },
    /// Retention has passed the place.
    #[error("offset {wanted} is older than the first checkpoint that is still held")]
    TooOld {
        /// What was asked for.
        wanted: Offset,
    },
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A value of our own that is not framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

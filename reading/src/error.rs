//! Why a partition cannot be read on.
//!
//! Owns the difference between faults that a person must repair and faults that pass by themselves.

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
    /// Retention has removed the offset.
    #[error("offset {wanted} is older than the first checkpoint that is still held")]
    TooOld {
        /// What was asked for.
        wanted: Offset,
    },
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// One of our own values is not framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

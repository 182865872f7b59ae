//! Why a publish request was refused.

use std::sync::Arc;

use event_log::AppendError;
use reading::error::ReaderError;
use schemas::ids::{AgentId, ChannelName, Partition};

use super::batch::BatchError;
use crate::channels::NotAtWork;
use crate::registry::RegisterError;

/// Why a publish request was refused.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No such channel, or none that the caller may know of.
    #[error("there is no channel {0}")]
    ChannelUnknown(ChannelName),
    /// It is declared, but this router cannot serve it now.
    #[error(transparent)]
    NotAtWork(#[from] NotAtWork),
    #[error("channel {0} has no partition {1}")]
    PartitionUnknown(ChannelName, Partition),
    #[error("channel {channel} belongs to {owner}; {agent} may use it only by an agreement")]
    NotOwner { agent: AgentId, channel: ChannelName, owner: String },
    /// Collection channels will come with signed agreements.
    #[error("channel {0} is a collection channel; agents of this version do not send on those")]
    Collection(ChannelName),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The partition's topic was replaced.
    #[error("{0}")]
    Lost(Arc<ReaderError>),
    /// The partition's reader does not advance.
    #[error("this router has not read the partition up to its end: {0}")]
    NotReadBack(String),
}

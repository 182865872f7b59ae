//! Starts one channel's agent: its folder and the router are brought to agree, or the agent reopens.
//!
//! Owns the order: status, folder, openings, and the one remedy (docs/protocol.md, 2). The mark that demands another
//! comparison with the source is written before a reopen and removed after the comparison.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::client::{Client, send_json};
use platform::segments::SegmentError;
use platform::segments::checked_file;
use platform::segments::disk::Disk;
use schemas::avro::schema::AvroSchema;
use schemas::ids::{AgentId, ChannelName, Epoch};
use schemas::publish::ChannelStatus;

use crate::agent::{Agent, AgentError, Opening};
use crate::folder::FolderError;
use crate::image::{ImageError, ImageStore};
use crate::outbox::lock;
use crate::send::machine::{Doubt, SendMachine};
use crate::send::sender::{REQUEST_LIMIT, ReadStateError, SendError, Sender};

const MARK_KIND: &[u8; 4] = b"mark";

/// The parts that start an agent.
pub struct StartParts<'p> {
    pub id: &'p AgentId,
    pub channel: &'p ChannelName,
    /// The subject's schema that files are read into.
    pub schema: &'p AvroSchema,
    pub dir: &'p Path,
    pub disk: Arc<dyn Disk>,
    pub images: &'p (dyn Fn() -> Result<Box<dyn ImageStore>, ImageError> + Sync),
    /// A person's statement that the channel's other agent has stopped for good.
    pub take_over: bool,
}

/// An agent at work.
pub struct Started {
    pub agent: Agent,
    pub sender: Sender,
    /// Whether the source must be compared again: the images are the channel's state.
    pub is_reopened: bool,
}

/// Why an agent reopened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reopened {
    /// Its folder is in doubt by itself.
    #[error("the folder is in doubt")]
    Folder,
    /// The folder and the log do not agree.
    #[error(transparent)]
    Doubt(Doubt),
}

impl Reopened {
    /// The reason in a word, for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Doubt(doubt) => doubt.as_str(),
        }
    }
}

/// Why an agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The router, or the outbox.
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    State(#[from] ReadStateError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the file that marks a reopen cannot be written: {0}")]
    Mark(#[from] SegmentError),
    #[error(
        "channel {channel} is sent by {other}; one agent sends at a time. If that one is gone for good, set take_over = true"
    )]
    SentByAnother { channel: ChannelName, other: AgentId },
}

impl StartError {
    /// Whether a later start may succeed without a repair of the agent: the router failed, a disk is full, or the images
    /// are still open.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Send(error) => error.is_retryable(),
            Self::State(error) => error.is_retryable(),
            Self::Image(ImageError::Locked { .. }) => true,
            _ => self.is_of_a_full_disk(),
        }
    }

    /// Whether the images' disk is full.
    pub const fn is_of_a_full_disk(&self) -> bool {
        match self {
            Self::Image(ImageError::Full { .. }) => true,
            Self::Agent(error) => error.is_of_a_full_store(),
            _ => false,
        }
    }
}

/// Asks the router for the channel, opens the folder and every partition, and reopens what is in doubt; `tell` is
/// called before a reopen.
pub async fn start(
    parts: &StartParts<'_>,
    client: &Client,
    tell: &(dyn Fn(&Reopened) + Sync),
) -> Result<Started, StartError> {
    let request = client.get(&format!("/v1/channels/{}", parts.channel)).timeout(REQUEST_LIMIT);
    let status: ChannelStatus = send_json(request).await.map_err(SendError::from)?;
    let opening = || -> Result<Opening, StartError> {
        Ok(Opening {
            dir: parts.dir.to_owned(),
            disk: Arc::clone(&parts.disk),
            images: (parts.images)()?,
            channel: status.channel.clone(),
            log_id: status.log_id,
            schema: parts.schema.clone(),
        })
    };
    let (mut agent, is_doubtful) = match Agent::open(opening()?) {
        Ok(agent) => (agent, false),
        Err(AgentError::Folder(error @ FolderError::Doubtful { .. })) => {
            tracing::error!(%error, "the folder is in doubt");
            (Agent::open_doubtful(opening()?)?, true)
        }
        Err(error) => return Err(error.into()),
    };
    let outbox = agent.outbox();
    let epoch = lock(&outbox).epoch();
    let machine = SendMachine::new(parts.id.clone(), epoch, status.channel.partitions);
    let mut sender = Sender::new(client.clone(), parts.channel.clone(), outbox, machine, agent.folded());
    let doubt = match sender.open().await {
        Ok(()) => None,
        Err(SendError::Doubt(doubt)) => Some(doubt),
        Err(error) => return Err(error.into()),
    };
    if let Some(Doubt::Voided { agent: other, .. }) = &doubt
        && other != parts.id
        && !parts.take_over
    {
        return Err(StartError::SentByAnother { channel: parts.channel.clone(), other: other.clone() });
    }
    let reopened = match doubt {
        Some(doubt) => Some(Reopened::Doubt(doubt)),
        None => is_doubtful.then_some(Reopened::Folder),
    };
    if let Some(why) = &reopened {
        // Before the reopen: a crash must not lose the comparison that ends it.
        checked_file::write(parts.disk.as_ref(), &compare_mark(parts.dir), MARK_KIND, b"")?;
        tracing::warn!(%why, "reopens the channel");
        tell(why);
        let is_restored = matches!(why, Reopened::Doubt(Doubt::RestoredFolder { .. }));
        reopen(&mut agent, &mut sender, parts.id, status.channel.partitions, is_restored).await?;
    }
    let is_reopened = parts.disk.exists(&compare_mark(parts.dir));
    Ok(Started { agent, sender, is_reopened })
}

/// The mark from a reopen's beginning until the source was compared again.
fn compare_mark(dir: &Path) -> PathBuf {
    dir.join("compare-again")
}

/// Ends a reopen after the source was compared again: removes the mark.
pub fn end_comparison(disk: &dyn Disk, dir: &Path) -> Result<(), SegmentError> {
    let path = compare_mark(dir);
    disk.remove(&path).map_err(|error| SegmentError::Io { path: path.clone(), error })?;
    disk.sync_dir(dir).map_err(|error| SegmentError::Io { path, error })
}

/// The one remedy (docs/protocol.md, 2): a new epoch, images from the channel's state, unacknowledged events again.
async fn reopen(
    agent: &mut Agent,
    sender: &mut Sender,
    id: &AgentId,
    partitions: u32,
    is_restored: bool,
) -> Result<(), StartError> {
    let epoch = Epoch::new(platform::random::id().map_err(SendError::from)?);
    let marker = agent.begin_reopen(sender.first_unacknowledged()?, is_restored)?;
    let ends = sender.reopen(SendMachine::new(id.clone(), epoch, partitions)).await?;
    sender.read_state(agent).await?;
    let start = agent.end_reopen(marker, epoch, &ends)?;
    sender.continue_at(start);
    tracing::info!(rows = agent.register_size()?, "the channel is reopened");
    Ok(())
}

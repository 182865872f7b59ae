//! What a producer agent and a router say to each other: batches, openings, positions.
//!
//! Owns the names of a batch's metadata and the JSON of answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agreement::{Agreement, Status};
use crate::channel::Channel;
use crate::ids::{AgentId, Digest, Epoch, LogId, Offset, Partition, Sequence};

/// Metadata key of a batch's epoch.
pub const EPOCH_KEY: &str = "dit.epoch";
/// Metadata key of a batch's first sequence.
pub const SEQUENCE_KEY: &str = "dit.sequence";
/// Metadata key of the digest before a batch's first item.
pub const DIGEST_KEY: &str = "dit.digest";

/// The metadata of a batch.
pub fn batch_metadata(epoch: Epoch, first: Sequence, before: Digest) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([
        (EPOCH_KEY.to_owned(), epoch.to_string().into()),
        (SEQUENCE_KEY.to_owned(), first.to_string().into()),
        (DIGEST_KEY.to_owned(), before.to_string().into()),
    ])
}

/// A request to begin an epoch in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The new epoch.
    pub epoch: Epoch,
    /// The epoch that it replaces; `None` where nobody has opened yet.
    pub replaces: Option<Epoch>,
}

/// What counts next from a writer in one partition: everything below is acknowledged, however it got there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Who opened the epoch.
    pub agent: AgentId,
    /// The current epoch.
    pub epoch: Epoch,
    /// The sequence that counts next.
    pub next: Sequence,
    /// The digest after the last record that counted.
    pub digest: Digest,
}

/// The table's word on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// `None` while nobody has opened it.
    pub counted: Option<Counted>,
    /// The first log offset that the router has not read.
    pub read_to: Offset,
    /// The first log offset that the state does not include.
    pub state_to: Offset,
    /// The log lost events that the state had not: only the provider can mend it, by a reopen.
    #[serde(default)]
    pub state_overtaken: bool,
}

/// A channel as its owner's agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// The declaration.
    pub channel: Channel,
    /// The id of its log.
    pub log_id: LogId,
    /// By partition.
    pub positions: Vec<Position>,
}

/// One agreement of the asking participant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreementStatus {
    /// The newest version.
    pub agreement: Agreement,
    /// Where it stands.
    pub status: Status,
    /// Why, for people.
    pub reason: String,
}

/// Who is asking, and what it may have and must provide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// The asking agent.
    pub agent: AgentId,
    /// Agreements under which it receives.
    pub agreements: Vec<AgreementStatus>,
    /// Channels that it owns.
    pub channels: Vec<Channel>,
}

//! The messages between a producer agent and a router: batches, openings, positions.
//!
//! Owns the names of a batch's metadata and the JSON of answers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::agreement::{Agreement, Status};
use crate::channel::Channel;
use crate::cursor::Place;
use crate::epoch_table::EpochEnd;
use crate::ids::{AgentId, AgreementVersion, Digest, Epoch, LogId, Offset, Partition, Sequence};
use crate::limits;
use crate::per_partition::PerPartition;
use crate::trace::TraceContext;

/// Metadata key of a batch's epoch.
pub const EPOCH_KEY: &str = "dit.epoch";
/// Metadata key of a batch's first sequence.
pub const SEQUENCE_KEY: &str = "dit.sequence";
/// Metadata key of the digest before a batch's first item.
pub const DIGEST_KEY: &str = "dit.digest";

/// Metadata key of the traces of a batch's sampled events.
pub const TRACES_KEY: &str = "dit.traces";

/// Adds the traces of a batch's sampled events to its metadata.
pub fn put_traces(metadata: &mut BTreeMap<String, Vec<u8>>, traces: &[(usize, TraceContext)]) {
    if !traces.is_empty() {
        metadata.insert(TRACES_KEY.to_owned(), trace_lines(traces).into());
    }
}

/// Traces as text: for each, a line with its event's index and its `traceparent`.
pub fn trace_lines(traces: &[(usize, TraceContext)]) -> String {
    let lines: Vec<String> = traces.iter().map(|(index, trace)| format!("{index} {trace}")).collect();
    lines.join("\n")
}

/// The traces by event. A line that cannot be read is skipped: a bad trace refuses nothing.
pub fn traces(text: &str) -> BTreeMap<usize, TraceContext> {
    let line = |line: &str| {
        let (index, trace) = line.split_once(' ')?;
        Some((index.parse().ok()?, TraceContext::parse(trace)?))
    };
    text.lines().take(limits::MAX_BATCH_EVENTS).filter_map(line).collect()
}

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

/// What counts next from a writer in one partition: everything below is acknowledged, by whatever request it came.
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
    /// The ends of the epochs before it, the newest last.
    #[serde(default)]
    pub ended: Vec<EpochEnd>,
}

/// The epoch table's answer for one partition, and how far the router has got in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub partition: Partition,
    /// `None` while nobody has opened it.
    pub counted: Option<Counted>,
    /// The first log offset that the router has not read.
    pub read_to: Offset,
    /// The first log offset that the state does not include.
    pub state_to: Offset,
    /// The log lost events that the state had not: only the provider can repair it, by a reopen.
    #[serde(default)]
    pub state_overtaken: bool,
}

/// A channel as its owner's agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    pub channel: Channel,
    /// The id of its log.
    pub log_id: LogId,
    /// By partition.
    pub positions: Vec<Position>,
}

impl ChannelStatus {
    /// Whether the channel's state has all that was read of the log: who joins now gets it from there.
    pub fn is_materialised(&self) -> bool {
        self.positions.iter().all(|position| position.state_to >= position.read_to)
    }
}

/// One agreement of the asking participant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreementStatus {
    /// The newest version.
    pub agreement: Agreement,
    pub status: Status,
    /// Why, for people.
    pub reason: String,
}

/// The agent that asks, with its agreements and its channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// The asking agent.
    pub agent: AgentId,
    /// Agreements under which it receives.
    pub agreements: Vec<AgreementStatus>,
    /// Channels that it owns.
    pub channels: Vec<Channel>,
}

/// A channel's agreements, as its owner sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAgreements {
    pub channel: Channel,
    /// The subject's schemas, by version from 1.
    pub schemas: Vec<serde_json::Value>,
    /// All agreements under which the channel is received.
    pub agreements: Vec<AgreementStatus>,
}

/// Counts of what a proposed agreement would have given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowCounts {
    /// Events that were judged.
    pub events: u64,
    /// Events of which its consumer would get nothing.
    pub nothing: u64,
    /// Events that would change a row that it has.
    pub change: u64,
    /// Events whose row would enter its scope.
    pub enter: u64,
    /// Events whose row would leave its scope: it would get a delete.
    pub leave: u64,
    /// Events that cannot be judged, and would be parked.
    pub parked: u64,
    /// The version of the agreement in force, if there is one, with which the proposal is compared.
    #[serde(default)]
    pub beside: Option<AgreementVersion>,
    /// Events of which only the proposal gives something; all that it gives, where no agreement is in force.
    pub gained: u64,
    /// Events of which only the agreement in force gives something.
    pub lost: u64,
    /// Fields of the events that it does not name, and that are denied.
    pub pending: BTreeSet<String>,
    /// Why a schema suspends it: nothing was judged from that schema's first event on.
    pub suspended: Option<String>,
    /// Whether all requested events were judged; otherwise the time was up.
    pub is_whole: bool,
    /// The place in each partition up to which events were judged.
    pub places: PerPartition<Place>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_come_back_by_event_and_unreadable_lines_are_passed_over() {
        let trace = TraceContext::new([1; 16], [2; 8]).unwrap_or_else(|| panic!("a context"));
        let mut metadata = BTreeMap::new();
        put_traces(&mut metadata, &[]);
        assert!(metadata.is_empty());
        put_traces(&mut metadata, &[(0, trace), (7, trace)]);
        let text = metadata.get(TRACES_KEY).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let text = text.unwrap_or_default() + "\n9 00-zz\nx\n\n-1 " + &trace.to_string();
        assert_eq!(traces(&text), BTreeMap::from([(0, trace), (7, trace)]));
    }
}

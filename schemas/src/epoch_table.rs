//! The counting rule: which records of a partition count (docs/protocol.md, 2).
//!
//! Owns the table (epoch, next, digest for each writer), a fold of the log. Every reader applies it, always. A
//! record that does not count is skipped, whatever its cause: a retry, a zombie's late write, a batch with a hole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::channel::ChannelKind;
use crate::digest;
use crate::ids::{AgentId, Digest, Epoch, Sequence};
use crate::limits;
use crate::record::Provenance;

/// The beginning of an epoch in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub agent: AgentId,
    /// The new epoch.
    pub epoch: Epoch,
    /// The epoch that it replaces; `None` for the writer's first epoch.
    pub replaces: Option<Epoch>,
}

/// The owner of an epoch: the partition on a distribution channel, a participant on a collection channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer(String);

impl Writer {
    /// The writer that an agent is on a channel of this kind.
    pub fn of(kind: ChannelKind, agent: &AgentId) -> Self {
        match kind {
            ChannelKind::Distribution => Self(String::new()),
            ChannelKind::Collection => Self(agent.participant.to_string()),
        }
    }

    /// As a checkpoint writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a checkpoint wrote it.
    pub const fn from_checkpoint(text: String) -> Self {
        Self(text)
    }
}

/// The end of an epoch's records in one partition: of all of them, once it was replaced, or of those so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    pub epoch: Epoch,
    /// The sequence that would have counted next; everything below counts.
    pub next: Sequence,
    /// The digest after the last record that counted.
    pub digest: Digest,
}

/// What counts next from one writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The agent that opened the epoch.
    pub agent: AgentId,
    /// The current epoch.
    pub epoch: Epoch,
    /// The sequence that counts next; everything below is acknowledged.
    pub next: Sequence,
    /// The digest after the last record that counted.
    pub digest: Digest,
    /// The ends of the epochs before it, the newest last; at most [`limits::MAX_ENDED_EPOCHS`].
    pub ended: Vec<EpochEnd>,
}

impl Entry {
    /// The end of the current epoch so far.
    pub const fn end(&self) -> EpochEnd {
        EpochEnd { epoch: self.epoch, next: self.next, digest: self.digest }
    }
}

/// Why a record does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Its epoch is not the current one: a zombie, or an opening that lost.
    OtherEpoch,
    /// It counted before: a retry.
    Repeat,
    /// Something before it is missing.
    Hole,
    /// It does not continue the digest: a restored or cloned folder.
    OtherDigest,
    /// Another agent than the one that opened the epoch wrote it.
    OtherAgent,
}

/// The table of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochTable {
    entries: BTreeMap<Writer, Entry>,
}

impl EpochTable {
    /// The entry of a writer.
    pub fn entry(&self, writer: &Writer) -> Option<&Entry> {
        self.entries.get(writer)
    }

    /// Bytes of memory that it takes, about.
    pub fn size(&self) -> usize {
        self.entries.len() * size_of::<(Writer, Entry)>()
    }

    /// All entries, by writer.
    pub fn entries(&self) -> impl Iterator<Item = (&Writer, &Entry)> {
        self.entries.iter()
    }

    /// A table as a checkpoint holds it.
    pub fn from_entries(entries: impl IntoIterator<Item = (Writer, Entry)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Judges an opening: it counts only if the epoch that it replaces is current.
    pub fn open(&mut self, kind: ChannelKind, opening: &Opening) -> Result<(), Skip> {
        let writer = Writer::of(kind, &opening.agent);
        let before = self.entries.get(&writer);
        let current = before.map(|entry| entry.epoch);
        if current != opening.replaces {
            return Err(if current == Some(opening.epoch) { Skip::Repeat } else { Skip::OtherEpoch });
        }
        let mut ended = before.map(|entry| entry.ended.clone()).unwrap_or_default();
        ended.extend(before.map(Entry::end));
        ended.drain(..ended.len().saturating_sub(limits::MAX_ENDED_EPOCHS));
        let entry = Entry {
            agent: opening.agent.clone(),
            epoch: opening.epoch,
            next: Sequence::new(0),
            digest: digest::first(opening.epoch),
            ended,
        };
        self.entries.insert(writer, entry);
        Ok(())
    }

    /// Judges a sequenced record: it counts only if its epoch is current and it continues the digest. A block counts as a
    /// whole or not at all.
    pub fn count(&mut self, kind: ChannelKind, provenance: &Provenance, datum: &[u8]) -> Result<(), Skip> {
        let writer = Writer::of(kind, &provenance.agent);
        let entry = self.entries.get_mut(&writer).ok_or(Skip::OtherEpoch)?;
        if entry.epoch != provenance.epoch {
            return Err(Skip::OtherEpoch);
        }
        if entry.agent != provenance.agent {
            return Err(Skip::OtherAgent);
        }
        if provenance.sequence != entry.next {
            return Err(if provenance.sequence < entry.next { Skip::Repeat } else { Skip::Hole });
        }
        if digest::next(entry.digest, datum) != provenance.digest {
            return Err(Skip::OtherDigest);
        }
        entry.next = provenance.next();
        entry.digest = provenance.digest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        format!("4000/{name}").parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn opening(agent_name: &str, epoch: u8, replaces: Option<u8>) -> Opening {
        Opening {
            agent: agent(agent_name),
            epoch: Epoch::new([epoch; 16]),
            replaces: replaces.map(|byte| Epoch::new([byte; 16])),
        }
    }

    fn provenance(agent_name: &str, epoch: u8, sequence: u64, before: Digest, datum: &[u8]) -> Provenance {
        Provenance {
            agent: agent(agent_name),
            epoch: Epoch::new([epoch; 16]),
            sequence: Sequence::new(sequence),
            count: 1,
            digest: digest::next(before, datum),
        }
    }

    const KIND: ChannelKind = ChannelKind::Distribution;

    #[test]
    fn a_record_counts_once_and_in_order() {
        let mut table = EpochTable::default();
        assert_eq!(table.open(KIND, &opening("a", 1, None)), Ok(()));
        let first = provenance("a", 1, 0, digest::first(Epoch::new([1; 16])), b"x");
        let second = provenance("a", 1, 1, first.digest, b"y");
        assert_eq!(table.count(KIND, &second, b"y"), Err(Skip::Hole));
        assert_eq!(table.count(KIND, &first, b"x"), Ok(()));
        assert_eq!(table.count(KIND, &first, b"x"), Err(Skip::Repeat));
        assert_eq!(table.count(KIND, &second, b"z"), Err(Skip::OtherDigest));
        assert_eq!(table.count(KIND, &second, b"y"), Ok(()));
    }

    #[test]
    fn an_opening_that_names_another_epoch_loses() {
        let mut table = EpochTable::default();
        assert_eq!(table.open(KIND, &opening("a", 1, None)), Ok(()));
        assert_eq!(table.open(KIND, &opening("b", 2, None)), Err(Skip::OtherEpoch));
        assert_eq!(table.open(KIND, &opening("b", 2, Some(1))), Ok(()));
        let zombie = provenance("a", 1, 0, digest::first(Epoch::new([1; 16])), b"x");
        assert_eq!(table.count(KIND, &zombie, b"x"), Err(Skip::OtherEpoch));
    }

    #[test]
    fn an_opening_says_where_the_epochs_before_it_ended() {
        let mut table = EpochTable::default();
        assert_eq!(table.open(KIND, &opening("a", 1, None)), Ok(()));
        let first = provenance("a", 1, 0, digest::first(Epoch::new([1; 16])), b"x");
        assert_eq!(table.count(KIND, &first, b"x"), Ok(()));
        for epoch in 2..9 {
            assert_eq!(table.open(KIND, &opening("a", epoch, Some(epoch - 1))), Ok(()));
            let entry = table.entry(&Writer::of(KIND, &agent("a"))).unwrap_or_else(|| panic!("no entry"));
            let of_first = entry.ended.iter().find(|ended| ended.epoch == Epoch::new([1; 16]));
            let expected =
                EpochEnd { epoch: Epoch::new([1; 16]), next: Sequence::new(1), digest: first.digest };
            let is_kept = usize::from(epoch - 1) <= limits::MAX_ENDED_EPOCHS;
            assert_eq!(of_first, is_kept.then_some(&expected), "epoch {epoch}");
            assert_eq!(entry.ended.last().map(|ended| ended.epoch), Some(Epoch::new([epoch - 1; 16])));
        }
    }

    #[test]
    fn on_a_collection_channel_participants_do_not_void_each_other() {
        let mut table = EpochTable::default();
        let mut other = opening("a", 2, None);
        other.agent = "5000/a".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(table.open(ChannelKind::Collection, &opening("a", 1, None)), Ok(()));
        assert_eq!(table.open(ChannelKind::Collection, &other), Ok(()));
        assert_eq!(table.entries().count(), 2);
    }
}

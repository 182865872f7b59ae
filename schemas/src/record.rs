//! A record of a channel's topics: key, value, headers, and what the headers say.
//!
//! Owns the header names: CloudEvents' Kafka binding in binary mode, W3C trace context, and the sequence.

use crate::ids::{AgentId, ChannelName, Digest, Epoch, Sequence};
use crate::time::Millis;
use crate::trace::TraceContext;

/// Which of our record types a record is.
pub const KIND_HEADER: &str = "dit_kind";
pub const AGENT_HEADER: &str = "dit_agent";
pub const EPOCH_HEADER: &str = "dit_epoch";
/// The record's number in its epoch.
pub const SEQUENCE_HEADER: &str = "dit_seq";
/// The digest after this record.
pub const DIGEST_HEADER: &str = "dit_digest";
/// The sampled trace of the event (W3C trace context), as its creator made it.
pub const TRACE_HEADER: &str = "traceparent";
/// On a state record: the log offset whose image it is.
pub const LOG_OFFSET_HEADER: &str = "dit_log_offset";

/// A record as it goes to the log and comes from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The key, by which the topic is partitioned and compacted.
    pub key: Option<Vec<u8>>,
    /// The framed value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// The first header of this name as text.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The trace that the event belongs to, if it is sampled.
    pub fn trace(&self) -> Option<TraceContext> {
        self.header_text(TRACE_HEADER).and_then(TraceContext::parse)
    }

    /// Its size in memory, in bytes, roughly.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

/// The type of a record in a channel's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Change,
    /// The beginning of an epoch.
    Opening,
    /// The table at an offset.
    Checkpoint,
    /// An order to start over.
    Resync,
    /// The source's freshness.
    Freshness,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Change, Self::Opening, Self::Checkpoint, Self::Resync, Self::Freshness];

    /// The header's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Opening => "opening",
            Self::Checkpoint => "checkpoint",
            Self::Resync => "resync",
            Self::Freshness => "freshness",
        }
    }

    /// The kind that a record's header names; `None` for a foreign record.
    pub fn of(record: &Record) -> Option<Self> {
        let text = record.header_text(KIND_HEADER)?;
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The header of this kind.
    pub fn header(self) -> (String, Vec<u8>) {
        (KIND_HEADER.to_owned(), self.as_str().into())
    }
}

/// The origin of a producer's record: its agent and epoch, its number in the epoch, and the digest after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub agent: AgentId,
    pub epoch: Epoch,
    pub sequence: Sequence,
    /// The digest after this record.
    pub digest: Digest,
}

impl Provenance {
    /// Reads the sequence headers; `None` when one is missing or unreadable.
    pub fn of(record: &Record) -> Option<Self> {
        Some(Self {
            agent: record.header_text(AGENT_HEADER)?.parse().ok()?,
            epoch: record.header_text(EPOCH_HEADER)?.parse().ok()?,
            sequence: Sequence::new(record.header_text(SEQUENCE_HEADER)?.parse().ok()?),
            digest: record.header_text(DIGEST_HEADER)?.parse().ok()?,
        })
    }

    pub fn headers(&self) -> [(String, Vec<u8>); 4] {
        [
            (AGENT_HEADER.to_owned(), self.agent.to_string().into()),
            (EPOCH_HEADER.to_owned(), self.epoch.to_string().into()),
            (SEQUENCE_HEADER.to_owned(), self.sequence.to_string().into()),
            (DIGEST_HEADER.to_owned(), self.digest.to_string().into()),
        ]
    }

    /// The CloudEvents attributes of a change, as headers of the Kafka binding's binary mode.
    pub fn cloudevents(&self, channel: &ChannelName, op: &str, at: Millis) -> Vec<(String, Vec<u8>)> {
        let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
        vec![
            header("ce_specversion", "1.0".to_owned()),
            header("ce_id", format!("{}-{}", self.epoch, self.digest)),
            header("ce_source", format!("urn:dit:{}:{channel}", self.agent.participant)),
            header("ce_type", format!("lv.dit.change.{op}")),
            header("ce_time", at.to_string()),
            header("content-type", "application/vnd.apache.avro+confluent".to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_survives_headers_and_a_missing_one_is_seen() {
        let provenance = Provenance {
            agent: "4000/main".parse().unwrap_or_else(|e| panic!("{e}")),
            epoch: Epoch::new([1; 16]),
            sequence: Sequence::new(7),
            digest: Digest::new([2; 16]),
        };
        let mut record = Record { headers: provenance.headers().to_vec(), ..Record::default() };
        assert_eq!(Provenance::of(&record), Some(provenance));
        record.headers.remove(2);
        assert_eq!(Provenance::of(&record), None);
    }

    #[test]
    fn kinds_survive_headers_and_foreign_records_have_none() {
        for kind in Kind::ALL {
            let record = Record { headers: vec![kind.header()], ..Record::default() };
            assert_eq!(Kind::of(&record), Some(kind));
        }
        assert_eq!(Kind::of(&Record::default()), None);
    }
}

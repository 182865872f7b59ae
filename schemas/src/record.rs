//! A record of a channel's topics: key, value, headers, and what the headers say.
//!
//! Owns the header names. A record of the log has one set of headers, however many changes its block has.

use std::borrow::Cow;

use crate::ids::{AgentId, Digest, Epoch, Sequence};

/// Which of our record types a record is.
pub const KIND_HEADER: &str = "dit_kind";
pub const AGENT_HEADER: &str = "dit_agent";
pub const EPOCH_HEADER: &str = "dit_epoch";
/// The number of the record's first event in its epoch.
pub const SEQUENCE_HEADER: &str = "dit_seq";
/// How many events the record has.
pub const COUNT_HEADER: &str = "dit_count";
/// The digest after this record.
pub const DIGEST_HEADER: &str = "dit_digest";
/// The sampled traces of the block's events (W3C trace context), as [`crate::publish::trace_lines`] writes them.
pub const TRACES_HEADER: &str = "dit_traces";
/// On a record of the state: the positions of the events that its images are from, as [`crate::position::runs`] writes them.
pub const POSITIONS_HEADER: &str = "dit_positions";
/// What a block is, for readers that do not know `dit`.
const CONTENT_TYPE: (&str, &str) = ("content-type", "application/vnd.apache.avro+confluent");

/// A record's header: its name and its value.
pub type Header = (Cow<'static, str>, Cow<'static, [u8]>);

/// A record as it goes to the log and comes from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The key; a channel's records have none.
    pub key: Option<Vec<u8>>,
    /// The framed value; a foreign record may have none.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_ref())
    }

    /// The first header of this name as text.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
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
    /// Changes, in the log.
    Block,
    /// Present images, in the state.
    Images,
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
    const ALL: [Self; 6] =
        [Self::Block, Self::Images, Self::Opening, Self::Checkpoint, Self::Resync, Self::Freshness];

    /// The header's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Images => "images",
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
    pub const fn header(self) -> Header {
        (Cow::Borrowed(KIND_HEADER), Cow::Borrowed(self.as_str().as_bytes()))
    }
}

/// The origin of a producer's record: its agent and epoch, its events' numbers in the epoch, and the digest after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub agent: AgentId,
    pub epoch: Epoch,
    /// Of its first event.
    pub sequence: Sequence,
    /// How many events it has: a block's changes, or one freshness.
    pub count: u32,
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
            count: record.header_text(COUNT_HEADER)?.parse().ok()?,
            digest: record.header_text(DIGEST_HEADER)?.parse().ok()?,
        })
    }

    /// The sequence that follows the record's events.
    pub fn next(&self) -> Sequence {
        self.sequence.after(self.count)
    }

    pub fn headers(&self) -> [Header; 6] {
        [
            header(AGENT_HEADER, self.agent.to_string()),
            header(EPOCH_HEADER, self.epoch.to_string()),
            header(SEQUENCE_HEADER, self.sequence.to_string()),
            header(COUNT_HEADER, self.count.to_string()),
            header(DIGEST_HEADER, self.digest.to_string()),
            (Cow::Borrowed(CONTENT_TYPE.0), Cow::Borrowed(CONTENT_TYPE.1.as_bytes())),
        ]
    }
}

/// A header of ours with a text.
pub fn header(name: &'static str, text: String) -> Header {
    (Cow::Borrowed(name), Cow::Owned(text.into_bytes()))
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
            count: 3,
            digest: Digest::new([2; 16]),
        };
        let mut record = Record { headers: provenance.headers().to_vec(), ..Record::default() };
        assert_eq!(provenance.next(), Sequence::new(10));
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

//! One entry of the outbox: a block of changes or a freshness, with its sequence and digest.
//!
//! Owns the bytes of an entry, in Avro's primitives. An entry becomes one record of the log, and is sent again as the
//! same record: its block is never cut anew.

use bytes::Bytes;
use schemas::avro::binary::{Cursor, DatumError, put_bytes, put_long};
use schemas::block::{self, OpenBlock};
use schemas::ids::{Digest, Partition, Sequence};
use schemas::trace::TraceContext;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Block(Block),
    /// A freshness record's datum.
    Freshness(Vec<u8>),
}

/// Changes that are one record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    count: u32,
    /// Shared: an entry has the block that it was made from.
    datum: Bytes,
    traces: Vec<(usize, TraceContext)>,
}

impl Block {
    /// From its changes, and the traces of some of them by their index.
    pub fn new(changes: OpenBlock, traces: Vec<(usize, TraceContext)>) -> Self {
        Self { count: changes.count(), datum: changes.finish().into(), traces }
    }

    /// The block's bare datum.
    pub fn datum(&self) -> &[u8] {
        &self.datum
    }

    /// The traces of its traced changes, by index.
    pub fn traces(&self) -> &[(usize, TraceContext)] {
        &self.traces
    }
}

impl Content {
    /// How many events it has.
    pub const fn count(&self) -> u32 {
        match self {
            Self::Block(block) => block.count,
            Self::Freshness(_) => 1,
        }
    }

    /// The bare datum.
    pub fn datum(&self) -> &[u8] {
        match self {
            Self::Block(block) => block.datum(),
            Self::Freshness(datum) => datum,
        }
    }

    /// The traces of its traced events.
    pub fn traces(&self) -> &[(usize, TraceContext)] {
        match self {
            Self::Block(block) => block.traces(),
            Self::Freshness(_) => &[],
        }
    }
}

/// An entry whose partition and sequence are fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub partition: Partition,
    /// Of its first event.
    pub sequence: Sequence,
    /// The digest after it.
    pub digest: Digest,
    pub content: Content,
}

impl Entry {
    /// The sequence that follows its events.
    pub const fn next(&self) -> Sequence {
        self.sequence.after(self.content.count())
    }

    pub(crate) fn size(&self) -> usize {
        let traced = self.content.traces().len() * (TraceContext::BYTES + 2);
        self.content.datum().len() + 32 + traced
    }

    /// Appends its bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.size() + 16);
        out.push(match self.content {
            Content::Block(_) => 0,
            Content::Freshness(_) => 1,
        });
        put_long(out, i64::from(self.partition.get()));
        put_long(out, i64::try_from(self.sequence.get()).unwrap_or(i64::MAX));
        out.extend_from_slice(self.digest.as_bytes());
        put_bytes(out, self.content.datum());
        for (index, trace) in self.content.traces() {
            put_long(out, i64::try_from(*index).unwrap_or(i64::MAX));
            out.extend_from_slice(&trace.to_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DatumError> {
        let mut cursor = Cursor::new(bytes);
        let kind = cursor.byte("kind")?;
        let at = cursor.at();
        let out_of_range = |_| DatumError::Invalid { at, what: "a number is out of range" };
        let partition = Partition::new(u32::try_from(cursor.long()?).map_err(out_of_range)?);
        let sequence = Sequence::new(u64::try_from(cursor.long()?).map_err(out_of_range)?);
        let mut digest = [0; 16];
        digest.copy_from_slice(cursor.take(16, "digest")?);
        let datum = cursor.bytes()?.to_vec();
        let mut traces = Vec::new();
        while cursor.left() > 0 {
            let index = usize::try_from(cursor.long()?).map_err(out_of_range)?;
            let mut bytes = [0; TraceContext::BYTES];
            bytes.copy_from_slice(cursor.take(TraceContext::BYTES, "trace")?);
            traces.extend(TraceContext::from_bytes(bytes).map(|trace| (index, trace)));
        }
        let content = match kind {
            0 => Content::Block(Block { count: block::count(&datum)?, datum: datum.into(), traces }),
            1 => Content::Freshness(datum),
            _ => return Err(DatumError::Invalid { at: 0, what: "an unknown kind of entry" }),
        };
        Ok(Self { partition, sequence, digest: Digest::new(digest), content })
    }
}

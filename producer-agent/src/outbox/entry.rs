//! One entry of the outbox: an event with its sequence and digest.
//!
//! Owns the bytes of an entry, in Avro's primitives.

use schemas::avro::binary::{Cursor, DatumError, put_bytes, put_long, put_string};
use schemas::ids::{Digest, Partition, Sequence};
use schemas::trace::TraceContext;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A change event: its key and bare datum.
    Change {
        key: String,
        /// The datum of the envelope.
        datum: Vec<u8>,
        /// The trace that the event belongs to, if it is traced.
        trace: Option<TraceContext>,
    },
    /// A freshness record's datum.
    Freshness(Vec<u8>),
}

impl Content {
    /// The key that goes into the digest.
    pub fn key(&self) -> &str {
        match self {
            Self::Change { key, .. } => key,
            Self::Freshness(_) => "",
        }
    }

    /// The bare datum.
    pub fn datum(&self) -> &[u8] {
        match self {
            Self::Change { datum, .. } | Self::Freshness(datum) => datum,
        }
    }

    /// The trace that it belongs to.
    pub const fn trace(&self) -> Option<&TraceContext> {
        match self {
            Self::Change { trace, .. } => trace.as_ref(),
            Self::Freshness(_) => None,
        }
    }
}

/// An event whose partition and sequence are fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub partition: Partition,
    pub sequence: Sequence,
    /// The digest after it.
    pub digest: Digest,
    pub content: Content,
}

impl Entry {
    pub(super) fn size(&self) -> usize {
        self.content.key().len() + self.content.datum().len() + 32 + TraceContext::BYTES
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size() + 16);
        out.push(match self.content {
            Content::Change { .. } => 0,
            Content::Freshness(_) => 1,
        });
        put_long(&mut out, i64::from(self.partition.get()));
        put_long(&mut out, i64::try_from(self.sequence.get()).unwrap_or(i64::MAX));
        out.extend_from_slice(self.digest.as_bytes());
        put_string(&mut out, self.content.key());
        put_bytes(&mut out, self.content.datum());
        if let Some(trace) = self.content.trace() {
            out.extend_from_slice(&trace.to_bytes());
        }
        out
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
        let key = cursor.string()?.to_owned();
        let datum = cursor.bytes()?.to_vec();
        let trace = match cursor.left() {
            0 => None,
            _ => {
                let mut bytes = [0; TraceContext::BYTES];
                bytes.copy_from_slice(cursor.take(TraceContext::BYTES, "trace")?);
                TraceContext::from_bytes(bytes)
            }
        };
        cursor.end()?;
        let content = match kind {
            0 => Content::Change { key, datum, trace },
            1 => Content::Freshness(datum),
            _ => return Err(DatumError::Invalid { at: 0, what: "an unknown kind of entry" }),
        };
        Ok(Self { partition, sequence, digest: Digest::new(digest), content })
    }
}

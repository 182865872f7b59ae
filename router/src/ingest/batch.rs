//! A published batch: a container file whose items continue one epoch in one partition.
//!
//! Owns its validation, record by record, without building values, and the records that it becomes. Agent and
//! router judge with the same code: a refusal means a defect or an attack.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::avro::binary::{Cursor, DatumError};
use schemas::avro::container::{self, ContainerError, Decoder, Header};
use schemas::avro::schema::SchemaError;
use schemas::change::{ChangeCodec, ChangeError};
use schemas::channel::Channel;
use schemas::digest;
use schemas::ids::{AgentId, Digest, Epoch, Partition, SchemaId, Sequence};
use schemas::key::{KeyDeriver, KeyError};
use schemas::marks::{Freshness, MARK_SCHEMA};
use schemas::publish::{self, DIGEST_KEY, EPOCH_KEY, SEQUENCE_KEY, TRACES_KEY};
use schemas::record::{Kind, Provenance, Record, TRACE_HEADER};
use schemas::trace::TraceContext;
use schemas::{framing, limits, partition};

use super::codecs::BatchCodecs;

/// Why a batch is refused. Nothing of it was appended.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// More than a batch may have.
    #[error("the batch has {what}; at most {limit} are taken")]
    TooLarge {
        /// A number with its unit.
        what: String,
        limit: usize,
    },
    /// Not a valid container file.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A metadata entry is missing or unreadable.
    #[error("the batch's metadata lacks a valid {0}")]
    Metadata(&'static str),
    /// Its schema is not a batch's.
    #[error("the batch's schema: {0}")]
    Schema(#[from] SchemaError),
    /// The channel's key does not fit its schema.
    #[error("the channel's key does not fit the batch's schema: {0}")]
    Key(#[from] KeyError),
    /// A record is not an event of the channel.
    #[error("record {index}: {error}")]
    Change {
        /// Counted from 0 in the batch.
        index: usize,
        error: ChangeError,
    },
    /// A record belongs to another partition.
    #[error("record {index}: its key belongs to partition {belongs}, it was sent to {sent}")]
    Partition {
        /// Counted from 0 in the batch.
        index: usize,
        belongs: Partition,
        /// Where it was sent.
        sent: Partition,
    },
    /// A record is larger than the log takes.
    #[error("record {index} has {size} bytes; the log takes {}", limits::MAX_DATUM_BYTES)]
    EventTooLarge {
        /// Counted from 0 in the batch.
        index: usize,
        size: usize,
    },
}

/// The beginning of a batch: its place in the epoch, and its items' schema.
#[derive(Debug)]
pub struct Envelope {
    /// The codec of its items.
    pub codec: Arc<ChangeCodec>,
    /// The epoch that it continues.
    pub epoch: Epoch,
    /// The first item's sequence.
    pub first: Sequence,
    /// The digest before the first item.
    pub digest: Digest,
    /// The traces of its sampled items, by their index in the batch.
    pub traces: BTreeMap<usize, TraceContext>,
    blocks: Vec<container::Block>,
}

impl Envelope {
    /// Reads the container; the items are judged by [`Envelope::records`].
    pub fn parse(body: &[u8], codecs: &BatchCodecs) -> Result<Self, BatchError> {
        if body.len() > limits::MAX_BATCH_BYTES {
            let what = format!("{} bytes", body.len());
            return Err(BatchError::TooLarge { what, limit: limits::MAX_BATCH_BYTES });
        }
        let mut decoder = Decoder::new();
        decoder.push(body);
        let header: Header = match decoder.header()? {
            Some(header) => header.clone(),
            None => return Err(ContainerError::Truncated("its header").into()),
        };
        let mut blocks = Vec::new();
        while let Some(block) = decoder.block()? {
            blocks.push(block);
        }
        decoder.finish()?;
        let count: usize = blocks.iter().map(|block| block.count).sum();
        if count > limits::MAX_BATCH_RECORDS {
            let what = format!("{count} records");
            return Err(BatchError::TooLarge { what, limit: limits::MAX_BATCH_RECORDS });
        }
        Ok(Self {
            codec: codecs.of(&header.schema)?,
            epoch: metadata(&header, EPOCH_KEY)?,
            first: Sequence::new(metadata(&header, SEQUENCE_KEY)?),
            digest: metadata(&header, DIGEST_KEY)?,
            traces: header.text(TRACES_KEY).map(publish::traces).unwrap_or_default(),
            blocks,
        })
    }

    /// Judges every item and makes its record.
    pub fn records(
        &self,
        agent: &AgentId,
        channel: &Channel,
        sent: Partition,
        schema: SchemaId,
    ) -> Result<Vec<Record>, BatchError> {
        let keys = KeyDeriver::new(&channel.key, self.codec.subject())?;
        let mut maker =
            RecordMaker { envelope: self, agent, channel, sent, schema, keys, digest: self.digest };
        let mut records = Vec::new();
        for block in &self.blocks {
            let mut cursor = Cursor::new(&block.datums);
            for _ in 0..block.count {
                let record = maker.next(&mut cursor, records.len())?;
                records.push(record);
            }
            cursor.end().map_err(|error| BatchError::Change { index: records.len(), error: error.into() })?;
        }
        Ok(records)
    }
}

fn metadata<T: std::str::FromStr>(header: &Header, key: &'static str) -> Result<T, BatchError> {
    header.text(key).and_then(|text| text.parse().ok()).ok_or(BatchError::Metadata(key))
}

struct RecordMaker<'a> {
    envelope: &'a Envelope,
    agent: &'a AgentId,
    channel: &'a Channel,
    sent: Partition,
    schema: SchemaId,
    keys: KeyDeriver,
    digest: Digest,
}

impl RecordMaker<'_> {
    fn next(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Result<Record, BatchError> {
        let wrong = |error: ChangeError| BatchError::Change { index, error };
        let at = cursor.at();
        let branch = cursor.long().map_err(|e| wrong(e.into()))?;
        let start = cursor.at();
        match branch {
            0 => {
                let change = self.envelope.codec.decode(cursor).map_err(|e| wrong(e.into()))?;
                change.check(&self.keys).map_err(wrong)?;
                let belongs = partition::of_key(change.key.as_bytes(), self.channel.partitions);
                if belongs != self.sent {
                    return Err(BatchError::Partition { index, belongs, sent: self.sent });
                }
                let datum = cursor.since(start);
                if datum.len() > limits::MAX_DATUM_BYTES {
                    return Err(BatchError::EventTooLarge { index, size: datum.len() });
                }
                let provenance = self.provenance(index, change.key.as_bytes(), datum);
                let mut headers = vec![Kind::Change.header()];
                headers.extend(provenance.headers());
                headers.extend(provenance.cloudevents(
                    &self.channel.name,
                    change.op.letter(),
                    change.event_at,
                ));
                if let Some(trace) = self.envelope.traces.get(&index) {
                    headers.push((TRACE_HEADER.to_owned(), trace.to_string().into()));
                }
                let value = Some(framing::frame(self.schema, datum));
                Ok(Record { key: Some(change.key.into()), value, headers })
            }
            1 => {
                cursor.long().map_err(|e| wrong(e.into()))?;
                let datum = cursor.since(start);
                Freshness::decode(datum).map_err(|e| wrong(e.into()))?;
                let provenance = self.provenance(index, b"", datum);
                let headers = [vec![Kind::Freshness.header()], provenance.headers().to_vec()].concat();
                Ok(Record { key: None, value: Some(framing::frame(MARK_SCHEMA, datum)), headers })
            }
            _ => Err(wrong(DatumError::Invalid { at, what: "a union has no such branch" }.into())),
        }
    }

    fn provenance(&mut self, index: usize, key: &[u8], datum: &[u8]) -> Provenance {
        self.digest = digest::next(self.digest, key, datum);
        let index = u64::try_from(index).unwrap_or(u64::MAX);
        Provenance {
            agent: self.agent.clone(),
            epoch: self.envelope.epoch,
            sequence: Sequence::new(self.envelope.first.get().saturating_add(index)),
            digest: self.digest,
        }
    }
}

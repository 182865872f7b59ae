//! A published batch: a container file whose items continue one epoch in one partition.
//!
//! Owns its validation, event by event, without building values, and the records that it becomes: one for each block.
//! Agent and router judge with the same code: a refusal means a defect or an attack.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use schemas::avro::binary::{Cursor, DatumError};
use schemas::avro::container::{self, ContainerError, Decoder, Header};
use schemas::avro::schema::SchemaError;
use schemas::change::{BlockTable, Change, ChangeCodec, ChangeError, Images};
use schemas::channel::Channel;
use schemas::digest;
use schemas::epoch_table::EpochEnd;
use schemas::ids::{AgentId, Partition, SchemaId, Sequence};
use schemas::key::{KeyDeriver, KeyError};
use schemas::marks::{Freshness, MARK_SCHEMA};
use schemas::publish::{self, DIGEST_KEY, EPOCH_KEY, SEQUENCE_KEY, TRACES_KEY};
use schemas::record::{Header as RecordHeader, Kind, Provenance, Record, TRACES_HEADER, header};
use schemas::trace::TraceContext;
use schemas::{framing, limits, partition};

use super::codecs::BatchCodecs;

/// A block's datum: its changes, and the numbers around them.
const MAX_BLOCK_DATUM_BYTES: usize = limits::MAX_BLOCK_BYTES + 4;

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
    /// An item is no event of the channel, or no block of them.
    #[error("event {index}: {error}")]
    Change {
        /// Counted from 0 in the batch.
        index: usize,
        error: ChangeError,
    },
    /// An event belongs to another partition.
    #[error("event {index}: its key belongs to partition {belongs}, it was sent to {sent}")]
    Partition {
        /// Counted from 0 in the batch.
        index: usize,
        belongs: Partition,
        /// Where it was sent.
        sent: Partition,
    },
    /// An event is larger than the log takes.
    #[error("event {index} has {size} bytes; the log takes {}", limits::MAX_DATUM_BYTES)]
    EventTooLarge {
        /// Counted from 0 in the batch.
        index: usize,
        size: usize,
    },
    /// A block of several events is larger than a block may be.
    #[error(
        "the block that begins with event {index} has {size} bytes; a block of several events has at most {MAX_BLOCK_DATUM_BYTES}"
    )]
    BlockTooLarge {
        /// Of its first event, counted from 0 in the batch.
        index: usize,
        size: usize,
    },
}

/// A batch that was judged.
#[derive(Debug)]
pub struct Judged {
    /// What is appended.
    pub records: Vec<Record>,
    /// The end of its epoch before it.
    pub continues: EpochEnd,
    /// The end of its epoch behind it.
    pub end: EpochEnd,
}

/// The beginning of a batch: its place in the epoch, and its items' schema.
#[derive(Debug)]
pub struct Envelope {
    /// The codec of its items.
    pub codec: Arc<ChangeCodec>,
    /// The end of its epoch before it.
    pub continues: EpochEnd,
    /// The traces of its sampled events, by their index in the batch.
    pub traces: BTreeMap<usize, TraceContext>,
    blocks: Vec<container::Block>,
}

impl Envelope {
    /// Reads the container; the events are judged by [`Envelope::judge`].
    pub fn parse(body: Bytes, codecs: &BatchCodecs) -> Result<Self, BatchError> {
        if body.len() > limits::MAX_BATCH_BYTES {
            let what = format!("{} bytes", body.len());
            return Err(BatchError::TooLarge { what, limit: limits::MAX_BATCH_BYTES });
        }
        let mut decoder = Decoder::of(body);
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
        if count > limits::MAX_BATCH_EVENTS {
            let what = format!("{count} items");
            return Err(BatchError::TooLarge { what, limit: limits::MAX_BATCH_EVENTS });
        }
        Ok(Self {
            codec: codecs.of(&header.schema)?,
            continues: EpochEnd {
                epoch: metadata(&header, EPOCH_KEY)?,
                next: Sequence::new(metadata(&header, SEQUENCE_KEY)?),
                digest: metadata(&header, DIGEST_KEY)?,
            },
            traces: header.text(TRACES_KEY).map(publish::traces).unwrap_or_default(),
            blocks,
        })
    }

    /// Judges every event and makes each item's record: a block's is the block as it came.
    pub fn judge(
        &self,
        agent: &AgentId,
        channel: &Channel,
        sent: Partition,
        schema: SchemaId,
    ) -> Result<Judged, BatchError> {
        let keys = KeyDeriver::new(&channel.key, self.codec.subject())?;
        let mut maker = RecordMaker {
            envelope: self,
            agent,
            channel,
            sent,
            schema,
            keys,
            end: self.continues,
            events: 0,
            table: BlockTable::default(),
        };
        let mut records = Vec::new();
        for block in &self.blocks {
            let mut cursor = Cursor::new(&block.datums);
            for _ in 0..block.count {
                records.push(maker.next(&mut cursor)?);
            }
            cursor.end().map_err(|error| BatchError::Change { index: maker.events, error: error.into() })?;
        }
        Ok(Judged { records, continues: self.continues, end: maker.end })
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
    /// Where the records so far end.
    end: EpochEnd,
    /// Events so far.
    events: usize,
    /// The places of the last block's changes: only its memory is used again.
    table: BlockTable,
}

impl RecordMaker<'_> {
    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Record, BatchError> {
        let first = self.events;
        let wrong = |error: DatumError| BatchError::Change { index: first, error: error.into() };
        let at = cursor.at();
        let branch = cursor.long().map_err(wrong)?;
        let start = cursor.at();
        match branch {
            0 => {
                let codec = Arc::clone(&self.envelope.codec);
                let mut table = std::mem::take(&mut self.table);
                table.clear();
                let mut judged = Ok(());
                let see = &mut |change: &Change<'_>, images: &Images<'_>, range: Range<usize>| {
                    if judged.is_ok() {
                        judged = self.judge(change, images, range.len());
                    }
                };
                let passed = codec.pass_block(cursor, &mut table, see);
                self.table = table;
                passed.map_err(wrong)?;
                judged?;
                let count = self.events - first;
                let datum = cursor.since(start);
                if count > 1 && datum.len() > MAX_BLOCK_DATUM_BYTES {
                    return Err(BatchError::BlockTooLarge { index: first, size: datum.len() });
                }
                let mut headers = vec![Kind::Block.header()];
                headers.extend(self.provenance(count, datum)?.headers());
                headers.extend(self.traces(first));
                Ok(Record { key: None, value: Some(framing::frame(self.schema, datum)), headers })
            }
            1 => {
                cursor.long().map_err(wrong)?;
                let datum = cursor.since(start);
                Freshness::decode(datum).map_err(wrong)?;
                self.events += 1;
                let provenance = self.provenance(1, datum)?;
                let headers = [vec![Kind::Freshness.header()], provenance.headers().to_vec()].concat();
                Ok(Record { key: None, value: Some(framing::frame(MARK_SCHEMA, datum)), headers })
            }
            _ => Err(wrong(DatumError::Invalid { at, what: "a union has no such branch" })),
        }
    }

    /// Judges one change of a block, which has so many bytes.
    fn judge(&mut self, change: &Change<'_>, images: &Images<'_>, size: usize) -> Result<(), BatchError> {
        let index = self.events;
        change.check(images, &self.keys).map_err(|error| BatchError::Change { index, error })?;
        let belongs = partition::of_key(change.key.as_bytes(), self.channel.partitions);
        if belongs != self.sent {
            return Err(BatchError::Partition { index, belongs, sent: self.sent });
        }
        if size > limits::MAX_DATUM_BYTES {
            return Err(BatchError::EventTooLarge { index, size });
        }
        self.events += 1;
        Ok(())
    }

    fn provenance(&mut self, count: usize, datum: &[u8]) -> Result<Provenance, BatchError> {
        if self.events > limits::MAX_BATCH_EVENTS {
            let what = format!("more than {} events", limits::MAX_BATCH_EVENTS);
            return Err(BatchError::TooLarge { what, limit: limits::MAX_BATCH_EVENTS });
        }
        self.end.digest = digest::next(self.end.digest, datum);
        let provenance = Provenance {
            agent: self.agent.clone(),
            epoch: self.end.epoch,
            sequence: self.end.next,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            digest: self.end.digest,
        };
        self.end.next = provenance.next();
        Ok(provenance)
    }

    /// The traces of the block's events, which begin at `first` in the batch.
    fn traces(&self, first: usize) -> Option<RecordHeader> {
        let of_block = self.envelope.traces.range(first..self.events);
        let traces: Vec<_> = of_block.map(|(index, trace)| (index - first, *trace)).collect();
        (!traces.is_empty()).then(|| header(TRACES_HEADER, publish::trace_lines(&traces)))
    }
}

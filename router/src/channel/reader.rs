//! Reading a partition under the counting rule, chunk by chunk.
//!
//! Owns the way from stored records to judgeable changes, and where a reader may begin: at a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use schemas::avro::binary::DatumError;
use schemas::change::{Change, ChangeCodec, Op, PlacedImages};
use schemas::channel::ChannelKind;
use schemas::framing::{self, FrameError};
use schemas::ids::{LogId, Offset, Partition, SchemaId};
use schemas::marks::Checkpoint;
use schemas::record::Kind;
use schemas::time::Millis;
use schemas::trace::TraceContext;
use scope::scope::Images;
use tokio::task::coop::consume_budget;

use super::fold::{Fold, Meaning};
use super::judged::Judged;
use crate::registry::codecs::{CodecError, Codecs};
use event_log::{Bounds, Log, ReadError, Stored, TopicError};

/// Bytes of the log in one chunk: bounds memory and the time between two looks at anything else.
pub const CHUNK_BYTES: usize = 512 * 1024;

/// A change event that counts, checked and located once for all who judge it.
#[derive(Debug)]
pub struct Judgeable {
    /// Its place.
    pub offset: Offset,
    /// When the log took it.
    pub logged_at: Millis,
    /// Its schema.
    pub schema: SchemaId,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
    /// What it does to its subject.
    pub op: Op,
    /// Its subject.
    pub key: String,
    /// When it happened.
    pub event_at: Millis,
    codec: Arc<ChangeCodec>,
    datum: Vec<u8>,
    images: PlacedImages,
}

impl Judgeable {
    /// Checks that the datum is a change of its schema.
    pub fn new(
        stored: &Stored,
        schema: SchemaId,
        codec: Arc<ChangeCodec>,
        datum: Vec<u8>,
    ) -> Result<Self, DatumError> {
        let (change, images) = codec.locate(&datum)?;
        let (op, key, event_at) = (change.op, change.key.to_owned(), change.event_at);
        let (offset, logged_at, trace) = (stored.offset, stored.logged_at, stored.record.trace());
        Ok(Self { offset, logged_at, schema, trace, op, key, event_at, codec, datum, images })
    }

    /// The event.
    pub fn change(&self) -> Result<Change<'_>, DatumError> {
        self.codec.decode_all(&self.datum)
    }

    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        &self.codec
    }

    /// Its images, with the places of their fields.
    pub fn images(&self) -> Images<'_> {
        let PlacedImages { before, after } = &self.images;
        Images {
            before: before.as_ref().and_then(|placed| placed.of(&self.datum)),
            after: after.as_ref().and_then(|placed| placed.of(&self.datum)),
        }
    }
}

/// What readers are told of, beside the fold.
#[derive(Debug, Clone)]
pub enum Item {
    /// A change event that counts.
    Change(Arc<Judgeable>),
    /// A record that counts but cannot be read: parked by name, for nobody.
    Poison {
        /// Its place.
        offset: Offset,
        /// Why.
        reason: String,
    },
    /// Everybody starts over.
    Resync {
        /// Its place.
        offset: Offset,
        /// Why.
        reason: String,
    },
}

/// A stretch of a partition, folded.
#[derive(Debug)]
pub struct Chunk {
    /// Where it begins.
    pub first: Offset,
    /// Where the next one begins.
    pub next: Offset,
    /// In offset order.
    pub items: Vec<Item>,
    /// Records that do not count.
    pub skipped: u64,
    /// The fold at `next`.
    pub fold: Fold,
    /// What it gives to those who listen at the tail, where it was judged for them.
    pub judged: Option<Judged>,
}

/// Why a partition cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The topic is not the one that the channel was created with.
    #[error(
        "lost_topic: {topic}, partition {partition}: {why}; restore the topic, or declare a channel of another name, with new agreements"
    )]
    LostTopic {
        /// The topic.
        topic: String,
        /// The partition.
        partition: Partition,
        /// What was seen.
        why: String,
    },
    /// Retention has passed the place.
    #[error("offset {wanted} is older than the first checkpoint that is still held")]
    TooOld {
        /// What was asked for.
        wanted: Offset,
    },
    /// The log.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The registry.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A value of our own that is not framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// What it takes to read a partition of a channel.
#[derive(Clone)]
pub struct Source {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The codecs of the values.
    pub codecs: Codecs,
    /// The log topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// How writers are told apart.
    pub kind: ChannelKind,
    /// The channel's log.
    pub log_id: LogId,
}

impl Source {
    /// The partition is not the one that it should be.
    pub fn lost(&self, why: impl Into<String>) -> ReaderError {
        ReaderError::LostTopic { topic: self.topic.clone(), partition: self.partition, why: why.into() }
    }

    fn read_error(&self, error: ReadError) -> ReaderError {
        match error {
            ReadError::BeforeFirst { wanted, .. } => ReaderError::TooOld { wanted },
            ReadError::BeyondEnd { wanted, next } => {
                self.lost(format!("offset {wanted} was read before, but the topic ends at {next}"))
            }
            // Whether the topic is gone is the bounds' to say: a read may come before a broker knows of it.
            ReadError::Topic(error) => error.into(),
        }
    }

    /// What the partition holds now.
    pub async fn bounds(&self) -> Result<Bounds, ReaderError> {
        let bounds = self.log.bounds(&self.topic, self.partition).await;
        bounds.map_err(|error| match error {
            TopicError::Unknown { .. } => self.lost("it is not there any more"),
            other => other.into(),
        })
    }

    /// The fold and the place to begin at, by the checkpoint record at an offset.
    pub async fn at_checkpoint(&self, at: Offset) -> Result<(Fold, Offset), ReaderError> {
        let read = self.log.read(&self.topic, self.partition, at, 1, Duration::ZERO).await;
        let batch = read.map_err(|e| self.read_error(e))?;
        let stored = batch.records.first().filter(|stored| stored.offset == at);
        let checkpoint = stored.and_then(checkpoint_of);
        let Some(checkpoint) = checkpoint else { return Err(ReaderError::TooOld { wanted: at }) };
        self.check_log_id(&checkpoint)?;
        let begin = checkpoint.as_of.min(at);
        Ok((Fold::begin(self.kind, at, checkpoint), begin))
    }

    /// The first checkpoint that is still held and whose own beginning is: where `earliest` begins.
    pub async fn first_checkpoint(&self) -> Result<(Fold, Offset), ReaderError> {
        self.find_checkpoint().await?.ok_or_else(|| self.lost("it holds no checkpoint"))
    }

    /// The first checkpoint that is still held and whose own beginning is.
    pub async fn find_checkpoint(&self) -> Result<Option<(Fold, Offset)>, ReaderError> {
        let bounds = self.bounds().await?;
        let mut next = bounds.first;
        while next < bounds.next {
            let read = self.log.read(&self.topic, self.partition, next, CHUNK_BYTES, Duration::ZERO).await;
            let batch = read.map_err(|e| self.read_error(e))?;
            for stored in &batch.records {
                let Some(checkpoint) = checkpoint_of(stored) else {
                    if stored.offset == Offset::new(0) {
                        return Err(self.lost("it does not begin with a checkpoint"));
                    }
                    continue;
                };
                self.check_log_id(&checkpoint)?;
                let begin = checkpoint.as_of.min(stored.offset);
                if begin >= bounds.first {
                    return Ok(Some((Fold::begin(self.kind, stored.offset, checkpoint), begin)));
                }
            }
            if batch.next == next {
                break;
            }
            next = batch.next;
        }
        Ok(None)
    }

    /// While the partition's first record is held, it is checkpoint 0 of this log.
    pub async fn check_begin(&self) -> Result<(), ReaderError> {
        let bounds = self.bounds().await?;
        if bounds.first > Offset::new(0) || bounds.next == Offset::new(0) {
            return Ok(());
        }
        match self.at_checkpoint(Offset::new(0)).await {
            // Retention may have come between the two looks.
            Err(ReaderError::TooOld { .. }) if self.bounds().await?.first > Offset::new(0) => Ok(()),
            Err(ReaderError::TooOld { .. }) => Err(self.lost("it does not begin with a checkpoint")),
            checked => checked.map(drop),
        }
    }

    /// A checkpoint of another log under the same name says that the topic was lost.
    pub fn check_log_id(&self, checkpoint: &Checkpoint) -> Result<(), ReaderError> {
        match checkpoint.log_id == self.log_id {
            true => Ok(()),
            false => Err(self.lost(format!("its log id is {}, not {}", checkpoint.log_id, self.log_id))),
        }
    }

    /// The codec of a framed value, and its bare datum.
    pub async fn decoder<'v>(&self, value: &'v [u8]) -> Result<(Arc<ChangeCodec>, &'v [u8]), ReaderError> {
        let (schema, datum) = framing::unframe(value)?;
        Ok((self.codecs.get(schema).await?, datum))
    }

    /// Reads on from a place and its fold; `None` when nothing came within `wait`.
    pub async fn read_chunk(
        &self,
        mut fold: Fold,
        from: Offset,
        wait: Duration,
    ) -> Result<Option<Chunk>, ReaderError> {
        let read = self.log.read(&self.topic, self.partition, from, CHUNK_BYTES, wait).await;
        let batch = read.map_err(|e| self.read_error(e))?;
        if batch.next == from {
            return Ok(None);
        }
        let mut items = Vec::with_capacity(batch.records.len());
        let mut skipped = 0;
        for stored in &batch.records {
            // Others on this thread have their turns.
            consume_budget().await;
            match fold.step(stored) {
                Meaning::Change { schema, datum } => {
                    let codec = self.codecs.get(schema).await?;
                    let judgeable = Judgeable::new(stored, schema, codec, datum.to_vec());
                    items.push(match judgeable {
                        Ok(judgeable) => Item::Change(Arc::new(judgeable)),
                        Err(error) => Item::Poison { offset: stored.offset, reason: error.to_string() },
                    });
                }
                Meaning::Resync(reason) => items.push(Item::Resync { offset: stored.offset, reason }),
                Meaning::Skipped(skip) => {
                    skipped += 1;
                    tracing::debug!(topic = %self.topic, partition = %self.partition, offset = %stored.offset, ?skip, "does not count");
                }
                Meaning::Foreign(reason) => {
                    items.push(Item::Poison { offset: stored.offset, reason: reason.to_owned() });
                }
                Meaning::Opening | Meaning::Freshness | Meaning::Checkpoint => {}
            }
        }
        Ok(Some(Chunk { first: from, next: batch.next, items, skipped, fold, judged: None }))
    }
}

fn checkpoint_of(stored: &Stored) -> Option<Checkpoint> {
    if Kind::of(&stored.record) != Some(Kind::Checkpoint) {
        return None;
    }
    let (_, datum) = framing::unframe(stored.record.value.as_deref()?).ok()?;
    Checkpoint::decode(datum).ok()
}

//! Reading a partition under the counting rule, chunk by chunk.
//!
//! Owns the path from stored records to located changes, and where a reader may begin: at a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use event_log::{Bounds, Log, ReadError, Stored, TopicError};
use schemas::change::ChangeCodec;
use schemas::channel::ChannelKind;
use schemas::framing;
use schemas::ids::{LogId, Offset, Partition};
use schemas::marks::Checkpoint;
use schemas::record::Kind;
use tokio::task::coop::consume_budget;

use crate::chunk::{CHUNK_BYTES, CHUNK_CHANGES, Chunk, Item};
use crate::codecs::Codecs;
use crate::error::ReaderError;
use crate::fold::{Fold, Meaning};
use crate::located::LocatedBlock;

/// The parts that are needed to read a partition of a channel.
#[derive(Clone)]
pub struct PartitionSource {
    pub log: Arc<dyn Log>,
    /// The codecs of the values.
    pub codecs: Arc<dyn Codecs>,
    pub topic: String,
    pub partition: Partition,
    /// How the counting rule distinguishes writers.
    pub kind: ChannelKind,
    pub log_id: LogId,
}

impl PartitionSource {
    /// The error that the partition is not the right one.
    pub fn lost(&self, why: impl Into<String>) -> ReaderError {
        self.lost_topic(&self.topic, why)
    }

    /// The error that another topic's partition of the channel is not the right one, or lacks records.
    pub fn lost_topic(&self, topic: &str, why: impl Into<String>) -> ReaderError {
        ReaderError::LostTopic { topic: topic.to_owned(), partition: self.partition, why: why.into() }
    }

    fn read_error(&self, error: ReadError) -> ReaderError {
        match error {
            ReadError::BeforeFirst { wanted, .. } => ReaderError::TooOld { wanted },
            ReadError::BeyondEnd { wanted, next } => {
                self.lost(format!("offset {wanted} was read before, but the topic ends at {next}"))
            }
            // Only the bounds decide whether the topic was removed: a read may come before a broker knows a new topic.
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

    /// The fold and the offset to begin at, from the checkpoint record at an offset.
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

    /// Checks that the log holds everything, since a topic that follows from it holds nothing yet.
    pub async fn check_log_is_whole(&self, follows: &str) -> Result<(), ReaderError> {
        let first = self.bounds().await?.first;
        match first == Offset::new(0) {
            true => Ok(()),
            false => {
                Err(self.lost_topic(follows, format!("it holds nothing, but the log begins at {first}")))
            }
        }
    }

    /// Checks that the partition's first record, while it is held, is checkpoint 0 of this log.
    pub async fn check_begin(&self) -> Result<(), ReaderError> {
        let bounds = self.bounds().await?;
        if bounds.first > Offset::new(0) || bounds.next == Offset::new(0) {
            return Ok(());
        }
        match self.at_checkpoint(Offset::new(0)).await {
            // Retention may have removed it between the two reads.
            Err(ReaderError::TooOld { .. }) if self.bounds().await?.first > Offset::new(0) => Ok(()),
            Err(ReaderError::TooOld { .. }) => Err(self.lost("it does not begin with a checkpoint")),
            checked => checked.map(drop),
        }
    }

    /// Reports the topic as lost if a checkpoint is another log's with the same name.
    pub fn check_log_id(&self, checkpoint: &Checkpoint) -> Result<(), ReaderError> {
        match checkpoint.log_id == self.log_id {
            true => Ok(()),
            false => Err(self.lost(format!("its log id is {}, not {}", checkpoint.log_id, self.log_id))),
        }
    }

    /// The codec of a framed value, and its bare datum.
    pub async fn decoder<'v>(&self, value: &'v [u8]) -> Result<(Arc<ChangeCodec>, &'v [u8]), ReaderError> {
        let (schema, datum) = framing::unframe(value)?;
        Ok((self.codecs.codec(schema).await?, datum))
    }

    /// Reads on from an offset and its fold; `None` when nothing came within `wait`.
    pub async fn read_chunk<N>(
        &self,
        mut fold: Fold,
        from: Offset,
        wait: Duration,
    ) -> Result<Option<Chunk<N>>, ReaderError> {
        let read = self.log.read(&self.topic, self.partition, from, CHUNK_BYTES, wait).await;
        let batch = read.map_err(|e| self.read_error(e))?;
        if batch.next == from {
            return Ok(None);
        }
        let mut items = Vec::with_capacity(batch.records.len());
        let mut changes = 0;
        let mut skipped = 0;
        let mut next = batch.next;
        for stored in batch.records {
            let offset = stored.offset;
            if changes >= CHUNK_CHANGES {
                next = offset;
                break;
            }
            // Gives other tasks of this thread their turns.
            consume_budget().await;
            match fold.step(&stored) {
                Meaning::Block { schema, datum } => {
                    let datum_at = stored.record.value.as_ref().map_or(0, Vec::len) - datum.len();
                    let codec = self.codecs.codec(schema).await?;
                    match LocatedBlock::locate(stored, schema, codec, datum_at) {
                        Ok(block) => {
                            changes += block.count();
                            items.push(Item::Block(block));
                        }
                        Err(error) => items.push(Item::Poison { offset, reason: error.to_string() }),
                    }
                }
                Meaning::Resync(reason) => items.push(Item::Resync { offset, reason }),
                Meaning::Skipped(skip) => {
                    skipped += 1;
                    tracing::debug!(topic = %self.topic, partition = %self.partition, %offset, ?skip, "does not count");
                }
                Meaning::Foreign(reason) => items.push(Item::Poison { offset, reason: reason.to_owned() }),
                Meaning::Opening | Meaning::Freshness | Meaning::Checkpoint => {}
            }
        }
        // Most records may be none.
        items.shrink_to_fit();
        Ok(Some(Chunk { first: from, next, items, skipped, fold, note: None }))
    }
}

fn checkpoint_of(stored: &Stored) -> Option<Checkpoint> {
    if Kind::of(&stored.record) != Some(Kind::Checkpoint) {
        return None;
    }
    let (_, datum) = framing::unframe(stored.record.value.as_deref()?).ok()?;
    Checkpoint::decode(datum).ok()
}

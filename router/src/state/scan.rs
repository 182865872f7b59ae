//! The reading of a state topic from one offset up to a checkpoint, which meets everything that was committed or fails.
//!
//! Owns where a state begins and ends in its topic, and the refusal of one that lacks records: by the writer that goes on
//! with it, and by a snapshot that gives it.

use std::time::Duration;

use event_log::{Bounds, ReadError};
use reading::error::ReaderError;
use reading::source::PartitionSource;
use schemas::ids::Offset;
use tokio::task::coop::consume_budget;

use super::block::StateRecord;
use super::links::Links;
use super::records::{self, StateMark};

const READ_BYTES: usize = 512 * 1024;

/// Why a state topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
}

/// Where a state begins and ends in its topic.
pub(super) struct StateBounds {
    /// The first offset that it needs; the topic's end where nothing was materialised yet.
    pub(super) first: Offset,
    /// Its last committed checkpoint; `None` where nothing was materialised yet.
    pub(super) last: Option<(Offset, StateMark)>,
}

impl StateBounds {
    /// Finds them in the topic.
    pub(super) async fn find(source: &PartitionSource, topic: &str) -> Result<Self, ScanError> {
        let (log, partition) = (source.log.as_ref(), source.partition);
        let bounds = log.bounds(topic, partition).await.map_err(ReadError::from)?;
        let last = records::last_checkpoint(log, topic, partition, bounds).await?;
        Self::of(source, topic, bounds, last).await
    }

    /// From what the topic holds, and its last checkpoint there. The topic holds the first offset, or is refused.
    pub(super) async fn of(
        source: &PartitionSource,
        topic: &str,
        bounds: Bounds,
        last: Option<(Offset, StateMark)>,
    ) -> Result<Self, ScanError> {
        let Some((_, mark)) = &last else {
            source.check_log_is_whole(topic).await?;
            return Ok(Self { first: bounds.next, last });
        };
        let first = mark.first;
        check_begin(source, topic, bounds.first, first)?;
        Ok(Self { first, last })
    }
}

/// Reports the topic as lost if it begins behind the first offset that the state needs.
pub(super) fn check_begin(
    source: &PartitionSource,
    topic: &str,
    begins: Offset,
    needed: Offset,
) -> Result<(), ReaderError> {
    match begins <= needed {
        true => Ok(()),
        false => {
            let why = format!("it begins at {begins}, but needs the records from {needed} on");
            Err(source.lost_topic(topic, why))
        }
    }
}

/// A record that a scan has met.
pub(super) struct Met {
    pub(super) offset: Offset,
    pub(super) bytes: usize,
    pub(super) record: StateRecord,
}

/// A reading of all records from an offset up to a checkpoint.
pub(super) struct Scan {
    source: PartitionSource,
    topic: String,
    links: Links,
    next: Offset,
    /// Behind the checkpoint.
    end: Offset,
}

impl Scan {
    /// From an offset to the one before `end`, which is a checkpoint's; of nothing where they are equal.
    pub(super) const fn new(source: PartitionSource, topic: String, next: Offset, end: Offset) -> Self {
        Self { source, topic, links: Links::from(next), next, end }
    }

    /// The next offset to read.
    pub(super) const fn next_offset(&self) -> Offset {
        self.next
    }

    /// The next records; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Met>>, ScanError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let Self { source, topic, links, next, end } = self;
        let batch = source.log.read(topic, source.partition, *next, READ_BYTES, Duration::ZERO).await?;
        if batch.next == *next {
            let why = format!("it ends at {next}, before the checkpoint that ends the state");
            return Err(source.lost_topic(topic, why).into());
        }
        *next = batch.next;
        let mut met = Vec::with_capacity(batch.records.len());
        for stored in batch.records.into_iter().filter(|stored| stored.offset < *end) {
            // Lets other tasks of this thread run.
            consume_budget().await;
            let (offset, bytes) = (stored.offset, stored.record.size());
            let record = StateRecord::read(source, topic, stored).await?;
            match &record {
                StateRecord::Block(_) => links.block(),
                StateRecord::Checkpoint(link) => {
                    let checked = links.checkpoint(offset, *link);
                    checked.map_err(|missing| source.lost_topic(topic, missing.to_string()))?;
                }
                StateRecord::Foreign => {}
            }
            met.push(Met { offset, bytes, record });
        }
        Ok(Some(met))
    }
}

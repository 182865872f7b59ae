//! The log port: it has what the router needs of a log, and promises no more than Kafka does.
//!
//! Owns the trait and its errors. Offsets grow but have gaps; an append may end unknown and still appear later; a batch
//! may be cut; retention drops old records, and deleted ones go at any moment.
//! Nothing above the port may rely on more than this.

#[cfg(test)]
mod conformance;
pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kafka_options;
pub mod memory;
mod stored;

use std::time::Duration;

use async_trait::async_trait;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    /// How many partitions; never changes.
    pub partitions: u32,
    /// Which records are removed, and when.
    pub cleanup: Cleanup,
}

/// What a topic may lose, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Records older than this, by append time.
    Retention(Duration),
    /// Nothing, unless [`Log::delete_records`] says so.
    KeepAll,
}

/// A record with its offset and its append time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its position in the partition.
    pub offset: Offset,
    /// When the log took it, by the log's clock.
    pub logged_at: Millis,
    pub record: Record,
}

/// Records read in one go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In offset order; offsets may have gaps.
    pub records: Vec<Stored>,
    /// The offset of the next read: after the last record, and after gaps that are known.
    pub next: Offset,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that may be read.
    pub first: Offset,
    /// The offset that the next record gets, at least.
    pub next: Offset,
}

/// Why a topic cannot be made or used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopicError {
    /// It exists with other settings.
    #[error("topic {topic} exists with {found}, but {wanted} is needed; change the topic or the channel")]
    Disagrees { topic: String, found: String, wanted: String },
    /// No such topic or partition.
    #[error("there is no partition {partition} of topic {topic}")]
    Unknown { topic: String, partition: Partition },
    /// The log cannot be reached, or its files cannot be used.
    #[error("the log cannot be used: {0}")]
    Unavailable(String),
}

/// Why an append was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A record is larger than the log takes; nothing was appended.
    #[error("a record of {size} bytes is larger than the log takes ({limit})")]
    TooLarge {
        size: usize,
        /// The largest that is taken.
        limit: usize,
    },
    /// Nothing was appended.
    #[error("the log took nothing: {0}")]
    Refused(String),
    /// The records may appear, in part or in whole, now or later.
    #[error("the append's outcome is unknown: {0}")]
    Unknown(String),
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is no longer held.
    #[error("offset {wanted} is no longer held; the first is {first}")]
    BeforeFirst {
        /// What was asked for.
        wanted: Offset,
        /// The first that is held.
        first: Offset,
    },
    /// The offset was never given out: another log under the same name.
    #[error("offset {wanted} lies beyond the end at {next}")]
    BeyondEnd {
        /// What was asked for.
        wanted: Offset,
        /// The end.
        next: Offset,
    },
    /// The topic does not exist, or the log cannot be used.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// Why a fenced batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A later writer was opened; this one will never commit again.
    #[error("another writer took over")]
    Fenced,
    /// Only the next opened writer settles whether it was made; then read the partition.
    #[error("the commit failed: {0}")]
    Failed(String),
}

/// The vitals that a client of a cluster reported last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientVitals {
    /// What it is for.
    pub name: String,
    /// Brokers that it is connected to.
    pub brokers_up: u64,
    /// Messages that wait in it.
    pub queued: u64,
    /// The 99th percentile of the slowest broker's round trips.
    pub round_trip: Duration,
    /// Requests that timed out since it began.
    pub timeouts: u64,
}

/// The largest record that every implementation takes, headers included (Kafka's default is 1,048,588).
pub const MAX_RECORD_BYTES: usize = 1_000_000;

/// An append-only partitioned store.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Makes the topic, or checks the one that is there. `true` when it was made.
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, TopicError>;

    /// Appends in order; returns the last record's offset. Records that are not acknowledged may still be there.
    async fn append(
        &self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, AppendError>;

    /// Reads about `max_bytes` of committed records from an offset on: without `wait` the present ones, else the first
    /// that arrive within it.
    async fn read(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Batch, ReadError>;

    /// What the partition holds now.
    async fn bounds(&self, topic: &str, partition: Partition) -> Result<Bounds, TopicError>;

    /// The first offset whose append time is not before `at`; the end when there is none.
    async fn offset_at(&self, topic: &str, partition: Partition, at: Millis) -> Result<Offset, TopicError>;

    /// Gives up the records before an offset. They may stay for a while; whoever reads them may find that they are gone.
    async fn delete_records(
        &self,
        topic: &str,
        partition: Partition,
        before: Offset,
    ) -> Result<(), TopicError>;

    /// Returns, with the reason, when only a restart makes the log usable again.
    async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// The vitals of the clients; none for a log without a cluster.
    fn clients(&self) -> Vec<ClientVitals> {
        Vec::new()
    }

    /// Its name in traces (`messaging.system` of the conventions).
    fn system(&self) -> &'static str {
        "dit"
    }

    /// A writer of atomic batches; fences every earlier writer of the same id.
    async fn open_writer(&self, id: &str) -> Result<Box<dyn FencedWriter>, TopicError>;
}

/// Where a committed batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The last record's offset.
    pub last: Offset,
    /// The first offset behind the batch, and behind what the log itself writes after one. A partition that ends here has
    /// nothing behind the batch.
    pub next: Offset,
}

/// Writes batches that appear whole or not at all, unless a later writer took over.
#[async_trait]
pub trait FencedWriter: Send + Sync {
    /// Commits a batch, which readers see when this returns. The records have consecutive offsets.
    async fn commit(
        &mut self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Committed, CommitError>;
}

fn check_sizes(records: &[Record]) -> Result<(), AppendError> {
    match records.iter().map(Record::size).find(|size| *size > MAX_RECORD_BYTES) {
        Some(size) => Err(AppendError::TooLarge { size, limit: MAX_RECORD_BYTES }),
        None => Ok(()),
    }
}

//! The outbox: blocks of events on disk, in order, before the events are reported as taken.
//!
//! Owns sequences and digests, fixed here before an event is first sent; the segment files; and the end of each
//! partition's chain. Whole segments are removed after they are acknowledged and folded into the images.

mod entry;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::segments::disk::Disk;
use platform::segments::{Frames, Options, SegmentError, SegmentStore};
use schemas::avro::binary::DatumError;
use schemas::change::ChangeCodec;
use schemas::digest;
use schemas::epoch_table::EpochEnd;
use schemas::ids::{Digest, Epoch, Partition, Sequence};
use schemas::limits;
use schemas::per_partition::PerPartition;
use serde::{Deserialize, Serialize};

pub use entry::{Block, Content, Entry};

const KIND: [u8; 4] = *b"obox";
/// Before this format an entry was one event.
const OLDEST_FORMAT: u16 = 3;
/// Small, so that an outage's disk space is freed soon afterwards.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes at which the source is refused before the disk is full.
pub const DEFAULT_WATERMARK: u64 = 8 * 1024 * 1024 * 1024;

/// The end of a partition's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPlace {
    pub next: Sequence,
    /// The digest that the next entry continues.
    pub digest: Digest,
}

/// A segment's header: the epoch, the schema, and each partition's place at the segment's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SegmentHeader {
    epoch: Epoch,
    batch_schema: String,
    places: PerPartition<ChainPlace>,
}

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("an outbox segment's header cannot be read: {0}")]
    Header(String),
    #[error(
        "the channel has no partition {partition}; set the folder aside if the channel was declared anew"
    )]
    NoPartition { partition: Partition },
    #[error("outbox entry {position} cannot be read: {error}")]
    Entry { position: u64, error: DatumError },
    /// The source is refused before the disk is full.
    #[error(
        "the outbox is full: it holds {held} bytes, its limit is {watermark}; nothing more is taken until the router acknowledges entries"
    )]
    Full {
        /// Bytes held.
        held: u64,
        watermark: u64,
    },
}

/// An entry with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    pub position: u64,
    pub entry: Entry,
}

/// The outbox of one channel.
pub struct Outbox {
    store: SegmentStore,
    epoch: Epoch,
    schema: String,
    places: PerPartition<ChainPlace>,
    watermark: u64,
}

impl ChainPlace {
    /// Before the first event of an epoch.
    fn first(epoch: Epoch) -> Self {
        Self { next: Sequence::new(0), digest: digest::first(epoch) }
    }
}

impl Outbox {
    /// Opens the outbox, or begins one in `epoch`. An existing one keeps its own epoch.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        epoch: Epoch,
        codec: &ChangeCodec,
        partitions: u32,
    ) -> Result<Self, OutboxError> {
        let fresh = SegmentHeader {
            epoch,
            batch_schema: codec.batch_schema().text().to_owned(),
            places: PerPartition::filled(partitions, ChainPlace::first(epoch)),
        };
        let options = Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes: u64::MAX };
        let (store, recovery) = SegmentStore::open(disk, dir, options, &encode_header(&fresh)?)?;
        if recovery.torn_bytes > 0 {
            tracing::info!(bytes = recovery.torn_bytes, "cut a torn write off the outbox");
        }
        let last = store.segments().last();
        let header = last.as_ref().map(|segment| decode_header(&segment.header)).transpose()?;
        let SegmentHeader { epoch, batch_schema, mut places } = header.unwrap_or(fresh);
        let from = last.map_or(0, |segment| segment.first);
        each_entry(&store, from, &mut |stored| {
            advance(&mut places, &stored.entry);
            true
        })?;
        Ok(Self { store, epoch, schema: batch_schema, places, watermark: DEFAULT_WATERMARK })
    }

    /// The epoch of entries that are appended now.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes at which appending is refused.
    pub const fn set_watermark(&mut self, bytes: u64) {
        self.watermark = bytes;
    }

    /// Bytes at which appending is refused.
    pub const fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The position after the last entry.
    pub fn next_position(&self) -> u64 {
        self.store.next()
    }

    /// The first position that is held.
    pub fn first_position(&self) -> u64 {
        self.store.first()
    }

    /// Bytes held on disk.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Appends blocks and freshness and syncs them, which fixes their sequences; returns the first position.
    pub fn append(
        &mut self,
        codec: &ChangeCodec,
        contents: &[(Partition, Content)],
    ) -> Result<u64, OutboxError> {
        let held = self.store.bytes();
        if held >= self.watermark {
            return Err(OutboxError::Full { held, watermark: self.watermark });
        }
        self.roll_when_due(codec)?;
        let mut places = self.places.clone();
        let mut frames = Frames::default();
        for (partition, content) in contents {
            let Some(place) = places.get_mut(*partition) else {
                return Err(OutboxError::NoPartition { partition: *partition });
            };
            let entry = Entry {
                partition: *partition,
                sequence: place.next,
                digest: digest::next(place.digest, content.datum()),
                content: content.clone(),
            };
            *place = ChainPlace { next: entry.next(), digest: entry.digest };
            frames.push(|out| entry.encode(out));
        }
        let first = self.store.append_frames(&frames)?;
        self.store.sync()?;
        self.places = places;
        Ok(first)
    }

    /// Begins a segment when the schema has changed or the last segment is full.
    fn roll_when_due(&mut self, codec: &ChangeCodec) -> Result<(), OutboxError> {
        let schema = codec.batch_schema().text();
        let last = self.store.segments().last();
        let full = last.is_some_and(|segment| segment.bytes >= SEGMENT_BYTES);
        if full || schema != self.schema {
            self.roll(self.epoch, schema.to_owned(), self.places.clone())?;
        }
        Ok(())
    }

    /// Begins a segment; the new header is in force only after the segment exists.
    fn roll(
        &mut self,
        epoch: Epoch,
        batch_schema: String,
        places: PerPartition<ChainPlace>,
    ) -> Result<(), OutboxError> {
        let header = SegmentHeader { epoch, batch_schema, places };
        self.store.roll(&encode_header(&header)?)?;
        let SegmentHeader { epoch, batch_schema, places } = header;
        (self.epoch, self.schema, self.places) = (epoch, batch_schema, places);
        Ok(())
    }

    /// The schema of the last segment.
    pub fn batch_schema(&self) -> &str {
        &self.schema
    }

    /// Begins a new epoch, in which each chain starts anew.
    pub fn begin_epoch(&mut self, epoch: Epoch) -> Result<(), OutboxError> {
        let places = self.places.values().map(|_| ChainPlace::first(epoch)).collect();
        self.roll(epoch, self.schema.clone(), places)
    }

    /// Entries from a position on, within one segment's epoch and schema, up to `max_bytes` but at least one.
    pub fn read(&self, from: u64, max_bytes: usize) -> Result<Window, OutboxError> {
        let segment = self.store.segments().find(|segment| segment.first <= from && from < segment.end);
        let Some(segment) = segment else {
            return Ok(Window { epoch: self.epoch, batch_schema: self.schema.clone(), entries: Vec::new() });
        };
        let header = decode_header(&segment.header)?;
        let mut entries = Vec::new();
        let mut size = 0;
        let mut events = 0;
        each_entry(&self.store, from, &mut |stored| {
            let count = usize::try_from(stored.entry.content.count()).unwrap_or(usize::MAX);
            let is_full = size > 0
                && (events + count > limits::MAX_BATCH_EVENTS || size + stored.entry.size() > max_bytes);
            if stored.position >= segment.end || is_full {
                return false;
            }
            size += stored.entry.size();
            events += count;
            entries.push(stored);
            true
        })?;
        Ok(Window { epoch: header.epoch, batch_schema: header.batch_schema, entries })
    }

    /// Visits entries from a position on, until `each` returns `false`.
    pub fn for_each(&self, from: u64, each: &mut dyn FnMut(StoredEntry) -> bool) -> Result<(), OutboxError> {
        each_entry(&self.store, from.max(self.store.first()), each)
    }

    /// The first position that is not below (next, digest) of a partition's chain; `None` if this outbox does not know
    /// that the chain was there in its epoch.
    pub fn find(
        &self,
        partition: Partition,
        next: Sequence,
        digest: Digest,
    ) -> Result<Option<u64>, OutboxError> {
        for segment in self.store.segments() {
            let header = decode_header(&segment.header)?;
            if header.epoch != self.epoch {
                continue;
            }
            if header.places.get(partition) == Some(&ChainPlace { next, digest }) {
                return Ok(Some(segment.first));
            }
        }
        let mut found = None;
        self.for_each(0, &mut |StoredEntry { position, entry }| {
            let here = entry.partition == partition && entry.next() == next && entry.digest == digest;
            if here {
                found = Some(position + 1);
            }
            !here
        })?;
        Ok(found)
    }

    /// Whether this outbox knows that a partition's chain was at `end`, in any epoch that it still holds.
    pub fn stood_at(&self, partition: Partition, end: &EpochEnd) -> Result<bool, OutboxError> {
        if end.next == Sequence::new(0) {
            return Ok(end.digest == digest::first(end.epoch));
        }
        for segment in self.store.segments() {
            let header = decode_header(&segment.header)?;
            if header.epoch != end.epoch {
                continue;
            }
            let place = ChainPlace { next: end.next, digest: end.digest };
            let mut is_found = header.places.get(partition) == Some(&place);
            each_entry(&self.store, segment.first, &mut |StoredEntry { position, entry }| {
                is_found |=
                    entry.partition == partition && entry.next() == end.next && entry.digest == end.digest;
                !is_found && position + 1 < segment.end
            })?;
            if is_found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops whole segments below a position that is acknowledged and folded.
    pub fn drop_before(&mut self, position: u64) -> Result<(), OutboxError> {
        // The last segment cannot be dropped; when all of it is done, a fresh one takes its place.
        let all_done = position >= self.store.next();
        let large = self.store.segments().last().is_some_and(|segment| segment.bytes >= SEGMENT_BYTES);
        if all_done && large {
            self.roll(self.epoch, self.schema.clone(), self.places.clone())?;
        }
        Ok(self.store.drop_before(position)?)
    }
}

/// An outbox that source and sender share.
pub type SharedOutbox = Arc<Mutex<Outbox>>;

/// Locks the outbox. A poisoned lock is no problem: every change of the outbox is whole.
pub fn lock(outbox: &SharedOutbox) -> MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Entries that can be sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub epoch: Epoch,
    pub batch_schema: String,
    /// In order.
    pub entries: Vec<StoredEntry>,
}

fn encode_header(header: &SegmentHeader) -> Result<Vec<u8>, OutboxError> {
    serde_json::to_vec(header).map_err(|e| OutboxError::Header(e.to_string()))
}

fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, OutboxError> {
    serde_json::from_slice(bytes).map_err(|e| OutboxError::Header(e.to_string()))
}

fn advance(places: &mut PerPartition<ChainPlace>, entry: &Entry) {
    if let Some(place) = places.get_mut(entry.partition) {
        *place = ChainPlace { next: entry.next(), digest: entry.digest };
    }
}

fn each_entry(
    store: &SegmentStore,
    from: u64,
    each: &mut dyn FnMut(StoredEntry) -> bool,
) -> Result<(), OutboxError> {
    let mut wrong = None;
    store.read(from, |position, payload| match Entry::decode(&payload) {
        Ok(entry) => each(StoredEntry { position, entry }),
        Err(error) => {
            wrong = Some(OutboxError::Entry { position, error });
            false
        }
    })?;
    wrong.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;

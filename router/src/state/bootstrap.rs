//! `from=state`: each key's present image once, then the log from the state's last checkpoint.
//!
//! Owns the two readings of one partition's state: learn each key's last entry up to the last committed checkpoint,
//! then give only those. A single reading that filters images leaves rows forever and repeats keys (docs/protocol.md, 4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::ReadError;
use reading::error::ReaderError;
use reading::fold::Fold;
use schemas::avro::located::Located;
use schemas::change::ChangeCodec;
use schemas::cursor::SnapshotPlace;
use schemas::ids::{Offset, SchemaId};
use schemas::position::EventPosition;
use schemas::time::Millis;
use tokio::task::coop::consume_budget;

use super::block::{Entry, StateBlock, StateRecord};
use super::records::{self, StateMark};
use super::scan::{Met, Scan, ScanError, StateBounds};
use super::tenure::StateWatch;
use crate::fanout::observer::Feed;
use crate::fanout::observer::Follower;

/// Why a bootstrap cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Records that it needs were deleted: it starts over.
    #[error("the snapshot began too long ago: the state or the log no longer holds records that it needs")]
    Overtaken,
    /// The log lost events that the state lacks.
    #[error(
        "state_overtaken: the state of {topic} lacks events; it is right again when its provider has reopened the channel"
    )]
    StateOvertaken { topic: String },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
}

/// The images of one block of the state that are present.
#[derive(Debug)]
pub struct PresentImages {
    block: StateBlock,
    /// The indices of their entries.
    live: Vec<u32>,
}

/// One key's present image.
#[derive(Debug, Clone, Copy)]
pub struct Present<'b> {
    pub key: &'b str,
    pub schema: SchemaId,
    codec: &'b Arc<ChangeCodec>,
    /// The image, with the ranges of its fields.
    pub image: Located<'b>,
    /// The position of the event that it comes from.
    pub position: EventPosition,
    pub event_at: Millis,
    /// When the state took it, or wrote it again.
    pub logged_at: Millis,
}

impl PresentImages {
    pub fn iter(&self) -> impl Iterator<Item = Present<'_>> {
        self.live.iter().filter_map(|index| {
            let (event, position) = self.block.entry(*index)?;
            Some(Present {
                key: event.change.key,
                schema: event.schema,
                codec: self.block.codec(),
                image: event.change.images.after?,
                position,
                event_at: event.change.event_at,
                logged_at: event.logged_at,
            })
        })
    }
}

impl<'b> Present<'b> {
    /// The codec of its schema.
    pub const fn codec(&self) -> &'b Arc<ChangeCodec> {
        self.codec
    }
}

/// The second reading of one partition's state, and the place in the log that follows it.
pub struct Bootstrap {
    feed: Arc<Feed>,
    /// Hash of key → its last entry.
    last: HashMap<u128, Entry>,
    scan: Scan,
    /// The checkpoint at which it ends.
    end: Offset,
    fold: Fold,
    as_of: Offset,
}

impl Bootstrap {
    /// The first reading: fixes the last committed checkpoint and learns each key's last entry up to it.
    pub async fn begin(feed: Arc<Feed>, state: &StateWatch) -> Result<Self, BootstrapError> {
        let source = feed.source();
        let topic = state.topic().to_owned();
        let StateBounds { first, last } = state.state_bounds(source).await?;
        let Some((end, mark)) = last else {
            // Nothing was materialised yet: the state is empty, and the log begins at its first checkpoint.
            let (fold, as_of) = feed.earliest().await?;
            let scan = Scan::new(source.clone(), topic, first, first);
            return Ok(Self { last: HashMap::new(), scan, end: first, fold, as_of, feed });
        };
        Self::learn(feed, topic, SnapshotPlace { next: first, end }, mark).await
    }

    /// Continues a snapshot that another stream, perhaps of another router, has begun. It ends at the same checkpoint,
    /// or fails.
    pub async fn resume(
        feed: Arc<Feed>,
        topic: String,
        place: SnapshotPlace,
    ) -> Result<Self, BootstrapError> {
        let source = feed.source();
        let read = source.log.read(&topic, source.partition, place.end, 1, Duration::ZERO).await;
        let batch = match read {
            // The topic was restored from an older copy.
            Err(ReadError::BeyondEnd { .. }) => return Err(BootstrapError::Overtaken),
            read => read.map_err(ScanError::from)?,
        };
        let checkpoint = batch.records.first().filter(|stored| stored.offset == place.end);
        let mark = checkpoint.and_then(|stored| records::read_checkpoint(&stored.record));
        let mark = mark.ok_or(BootstrapError::Overtaken)?;
        Self::learn(feed, topic, place, mark).await.map_err(|error| match error {
            // This is about the snapshot's old end. Only a new snapshot finds out about the present state.
            BootstrapError::StateOvertaken { .. } => BootstrapError::Overtaken,
            other => other,
        })
    }

    /// How far it has got.
    pub fn place(&self) -> SnapshotPlace {
        SnapshotPlace { next: self.scan.next_offset().min(self.end), end: self.end }
    }

    /// Learns what is last from a place on: whether an entry is last depends on nothing before it.
    async fn learn(
        feed: Arc<Feed>,
        topic: String,
        place: SnapshotPlace,
        mark: StateMark,
    ) -> Result<Self, BootstrapError> {
        let StateMark { checkpoint, log_checkpoint, overtaken, .. } = mark;
        let source = feed.source();
        let as_of = checkpoint.as_of;
        if overtaken.is_some() || as_of < source.bounds().await?.first {
            return Err(BootstrapError::StateOvertaken { topic });
        }
        let fold = Fold::begin(source.kind, log_checkpoint, checkpoint);
        let SnapshotPlace { next, end } = place;
        let scan = || Scan::new(source.clone(), topic.clone(), next, end.next());
        let mut last = HashMap::new();
        let mut first_reading = scan();
        while let Some(met) = first_reading.next().await? {
            for block in met.iter().filter_map(|met| met.record.block()) {
                consume_budget().await;
                last.extend(block.entries().map(|(entry, key, _)| (key, entry)));
            }
        }
        let scan = scan();
        Ok(Self { last, scan, end, fold, as_of, feed })
    }

    /// The next images, by block; `None` when all were given.
    pub async fn next(&mut self) -> Result<Option<Vec<PresentImages>>, BootstrapError> {
        let Some(met) = self.scan.next().await? else { return Ok(None) };
        let last = &self.last;
        let present = |met: Met| {
            let StateRecord::Block(block) = met.record else { return None };
            let live = block.entries().filter(|(entry, key, event)| {
                event.change.images.after.is_some() && last.get(key) == Some(entry)
            });
            let live: Vec<u32> = live.map(|(entry, ..)| entry.index).collect();
            (!live.is_empty()).then_some(PresentImages { block, live })
        };
        Ok(Some(met.into_iter().filter_map(present).collect()))
    }

    /// A follower from the state's end.
    pub fn into_follower(self) -> Follower {
        Follower::at(self.feed, self.fold, self.as_of)
    }
}

impl From<ScanError> for BootstrapError {
    fn from(error: ScanError) -> Self {
        match error {
            // What it needs is not held any more.
            ScanError::Read(ReadError::BeforeFirst { .. }) => Self::Overtaken,
            ScanError::Read(error) => Self::Read(error),
            ScanError::Reader(error) => Self::Reader(error),
        }
    }
}

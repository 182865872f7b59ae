//! `from=state`: each key's present image once, then the log from the state's last checkpoint.
//!
//! Owns the two readings of one partition's state: learn each key's last record up to the last committed checkpoint,
//! then give only those. A single reading that filters images leaves rows forever and repeats keys (docs/protocol.md, 4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Batch, ReadError};
use reading::error::ReaderError;
use reading::fold::Fold;
use schemas::avro::located::{Ends, Located};
use schemas::change::ChangeCodec;
use schemas::cursor::SnapshotPlace;
use schemas::digest::hash128;
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::position::EventPosition;
use schemas::time::Millis;
use tokio::task::coop::consume_budget;

use super::records::{self, StateMark};
use crate::fanout::observer::Feed;
use crate::fanout::observer::Follower;

const READ_BYTES: usize = 512 * 1024;

/// Why a bootstrap cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Compaction or retention overtook it: it starts over.
    #[error(
        "the snapshot began too long ago: compaction has removed records of the state, or retention those of the log, that it needs"
    )]
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

/// One key's present image.
#[derive(Debug)]
pub struct Present {
    pub key: String,
    pub schema: SchemaId,
    codec: Arc<ChangeCodec>,
    image: Vec<u8>,
    ends: Ends,
    /// The position of the event that it comes from.
    pub position: EventPosition,
    pub event_at: Millis,
    /// When the state took it.
    pub logged_at: Millis,
}

impl Present {
    /// The codec of its schema.
    pub const fn codec(&self) -> &Arc<ChangeCodec> {
        &self.codec
    }

    /// The image, with the ranges of its fields.
    pub fn image(&self) -> Located<'_> {
        self.ends.of(&self.image)
    }
}

/// A state record that cannot be read: it is parked with its reason.
#[derive(Debug)]
pub struct Unreadable {
    /// Its offset in the state topic.
    pub offset: Offset,
    pub reason: String,
}

/// The second reading of one partition's state, and the place in the log that follows it.
pub struct Bootstrap {
    feed: Arc<Feed>,
    topic: String,
    /// Hash of key → offset of its last record.
    last: HashMap<u128, Offset>,
    next: Offset,
    end: Offset,
    fold: Fold,
    as_of: Offset,
}

impl Bootstrap {
    /// The first reading: fixes the last committed checkpoint and learns each key's last record up to it.
    pub async fn begin(feed: Arc<Feed>, topic: String) -> Result<Self, BootstrapError> {
        Self::learn(feed, topic, None).await
    }

    /// Continues a snapshot that another stream, perhaps of another router, has begun. It ends at the same checkpoint,
    /// or fails.
    pub async fn resume(
        feed: Arc<Feed>,
        topic: String,
        place: SnapshotPlace,
    ) -> Result<Self, BootstrapError> {
        let mut snapshot = Self::learn(feed, topic, Some(place.end)).await.map_err(|error| match error {
            // This is about the snapshot's old end. Only a new snapshot finds out about the present state.
            BootstrapError::StateOvertaken { .. } => BootstrapError::Overtaken,
            other => other,
        })?;
        if snapshot.end != place.end {
            return Err(BootstrapError::Overtaken);
        }
        snapshot.next = snapshot.next.max(place.next);
        Ok(snapshot)
    }

    /// How far it has got.
    pub fn place(&self) -> SnapshotPlace {
        SnapshotPlace { next: self.next.min(self.end), end: self.end }
    }

    async fn learn(feed: Arc<Feed>, topic: String, until: Option<Offset>) -> Result<Self, BootstrapError> {
        let source = feed.source();
        let bounds = source.log.bounds(&topic, source.partition).await.map_err(ReadError::from)?;
        let stop = until.map_or(bounds.next, |until| until.next().min(bounds.next));
        let mut last = HashMap::new();
        let mut uncommitted: Vec<(u128, Offset)> = Vec::new();
        let mut checkpoint = None;
        let mut next = bounds.first;
        while next < stop {
            let batch = source.log.read(&topic, source.partition, next, READ_BYTES, Duration::ZERO).await?;
            if batch.next == next {
                break;
            }
            next = batch.next;
            for stored in batch.records.iter().filter(|stored| stored.offset < stop) {
                consume_budget().await;
                if let Some(mark) = records::read_checkpoint(&stored.record) {
                    checkpoint = Some((stored.offset, mark));
                    last.extend(uncommitted.drain(..));
                } else if let Some(key) = stored.record.key.as_deref() {
                    uncommitted.push((hash128(key), stored.offset));
                }
            }
        }
        let (end, fold, as_of) = match checkpoint {
            Some((end, StateMark { checkpoint, log_checkpoint, overtaken })) => {
                let as_of = checkpoint.as_of;
                let first = source.bounds().await?.first;
                if overtaken.is_some() || as_of < first {
                    return Err(BootstrapError::StateOvertaken { topic });
                }
                (end, Fold::begin(source.kind, log_checkpoint, checkpoint), as_of)
            }
            // Nothing was materialised yet: the state is empty, and the log begins at its first checkpoint.
            None => {
                let (fold, as_of) = source.first_checkpoint().await?;
                (bounds.first, fold, as_of)
            }
        };
        Ok(Self { topic, last, next: bounds.first, end, fold, as_of, feed })
    }

    /// The next images; `None` when all were given.
    pub async fn next(&mut self) -> Result<Option<Vec<Result<Present, Unreadable>>>, BootstrapError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let source = self.feed.source().clone();
        let read =
            source.log.read(&self.topic, source.partition, self.next, READ_BYTES, Duration::ZERO).await;
        let batch: Batch = read.map_err(|error| match error {
            ReadError::BeforeFirst { .. } => BootstrapError::Overtaken,
            other => other.into(),
        })?;
        if batch.next == self.next {
            return Ok(None);
        }
        self.next = batch.next;
        let mut found = Vec::new();
        for stored in batch.records.into_iter().filter(|stored| stored.offset < self.end) {
            // Lets other tasks of this thread run.
            consume_budget().await;
            let (Some(key), Some(value)) = (&stored.record.key, &stored.record.value) else { continue };
            if self.last.get(&hash128(key)) != Some(&stored.offset) {
                continue;
            }
            let unreadable = |reason: String| Unreadable { offset: stored.offset, reason };
            let Ok((schema, datum)) = framing::unframe(value) else {
                found.push(Err(unreadable("it is not framed".to_owned())));
                continue;
            };
            let codec = source.codecs.codec(schema).await.map_err(ReaderError::from)?;
            let present = codec
                .decode_only(datum)
                .and_then(|change| {
                    let image = change.after.unwrap_or_default().to_vec();
                    let mut ends = Ends::default();
                    ends.locate(codec.subject().layout(), &image)?;
                    Ok(Present {
                        key: change.key.to_owned(),
                        schema,
                        codec: Arc::clone(&codec),
                        image,
                        ends,
                        position: records::log_position(&stored.record).unwrap_or_default(),
                        event_at: change.event_at,
                        logged_at: stored.logged_at,
                    })
                })
                .map_err(|error| unreadable(error.to_string()));
            found.push(present);
        }
        Ok(Some(found))
    }

    /// A follower from the state's end.
    pub fn into_follower(self) -> Follower {
        Follower::at(self.feed, self.fold, self.as_of)
    }
}

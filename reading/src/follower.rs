//! One reader of a partition: it reads the shared tail where it can, and the log where it must.
//!
//! Owns the hand-over between the two, without gap or repeat: both give the same contents for the same offsets, and a
//! position is an offset with its fold.

use std::sync::Arc;

use event_log::Bounds;
use schemas::cursor::Place;
use schemas::ids::Offset;
use schemas::time::Millis;

use crate::chunk::Chunk;
use crate::error::ReaderError;
use crate::feed::{Feed, Observer};
use crate::fold::Fold;
use crate::pace::Lead;
use crate::tail::Tail;

/// A reader of a partition, whose position moves forward.
pub struct Follower<O: Observer> {
    feed: Arc<Feed<O>>,
    fold: Fold,
    /// The next offset to be read.
    position: Offset,
    /// Records below this offset are not wanted.
    wanted: Offset,
    /// The next chunk, where it began with one.
    chunk: Option<Arc<Chunk<O::Note>>>,
    /// Held where the tail waits for this reader.
    lead: Option<Lead>,
}

impl<O: Observer> Follower<O> {
    /// Begins at a fold and its offset.
    pub const fn at(feed: Arc<Feed<O>>, fold: Fold, position: Offset) -> Self {
        Self { feed, fold, position, wanted: position, chunk: None, lead: None }
    }

    /// The tail does not leave this reader behind, unless it stands still. One of a partition's readers may say so.
    #[must_use]
    pub fn leading(self) -> Self {
        Self { lead: Some(self.feed.lead(self.position)), ..self }
    }

    /// Begins at the tail.
    pub fn latest(feed: Arc<Feed<O>>) -> Self {
        let tail = feed.tail();
        Self::at(feed, tail.fold.clone(), tail.next)
    }

    /// Begins at the first checkpoint that is still held.
    pub async fn earliest(feed: Arc<Feed<O>>) -> Result<Self, ReaderError> {
        let (fold, position) = feed.earliest().await?;
        Ok(Self::at(feed, fold, position))
    }

    /// Begins at a cursor's place.
    pub async fn resume(feed: Arc<Feed<O>>, place: Place) -> Result<Self, ReaderError> {
        let source = feed.source();
        let Bounds { first, next } = source.log.bounds(&source.topic, source.partition).await?;
        if place.offset > next {
            return Err(
                source.lost(format!("offset {} was delivered, but the topic ends at {next}", place.offset))
            );
        }
        // What a reader may have is a matter of the log alone, not of what this router has in memory.
        let (fold, position) = feed.at_checkpoint(place.checkpoint, first).await?;
        let tail = feed.tail();
        if place.offset == tail.next {
            return Ok(Self::at(feed, tail.fold.clone(), place.offset));
        }
        if let Some(chunk) = feed.chunk_at(place.offset) {
            // The fold at its end comes with it. Until then only the fold's checkpoint is asked for.
            return Ok(Self { chunk: Some(chunk), ..Self::at(feed, fold, place.offset) });
        }
        Ok(Self { wanted: place.offset, ..Self::at(feed, fold, position) })
    }

    /// Begins at the first record that was logged at a time or later; reads forward from the first checkpoint.
    pub async fn at_time(feed: Arc<Feed<O>>, at: Millis) -> Result<Self, ReaderError> {
        let source = feed.source();
        let wanted = source.log.offset_at(&source.topic, source.partition, at).await?;
        let mut follower = Self::earliest(Arc::clone(&feed)).await?;
        follower.wanted = wanted;
        Ok(follower)
    }

    /// The place for a cursor after everything that was read.
    pub fn place(&self) -> Place {
        let offset = self.position.max(self.wanted);
        Place { offset, checkpoint: self.fold.checkpoint.min(offset) }
    }

    /// The next offset to be read.
    pub const fn position(&self) -> Offset {
        self.position
    }

    /// The fold at the position.
    pub const fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Whether the position has reached the tail.
    pub fn is_caught_up(&self) -> bool {
        self.position >= self.feed.tail().next
    }

    /// The feed that is followed.
    pub const fn feed(&self) -> &Arc<Feed<O>> {
        &self.feed
    }

    /// The next chunk, if the log has one now. The reader must skip items below [`Follower::wanted`].
    pub async fn next(&mut self) -> Result<Option<Arc<Chunk<O::Note>>>, ReaderError> {
        let chunk = match self.chunk.take().or_else(|| self.feed.chunk_at(self.position)) {
            Some(chunk) => chunk,
            None if self.is_caught_up() => return Ok(None),
            None => {
                let read = self.feed.read_behind(&self.fold, self.position).await?;
                let Some(chunk) = read else { return Ok(None) };
                chunk
            }
        };
        self.wanted = self.wanted.max(self.position);
        self.position = chunk.next;
        self.lead.iter().for_each(|lead| lead.moved(self.position));
        // Who read the chunk may have begun behind an opening that this reader has passed.
        let opened = self.fold.opened.max(chunk.fold.opened);
        self.fold = chunk.fold.clone();
        self.fold.opened = opened;
        Ok(Some(chunk))
    }

    /// Skips to `tail`, if that is ahead; returns whether it was. The records between hold nothing for this reader.
    pub fn skip_to(&mut self, tail: &Tail) -> bool {
        let is_later = tail.next > self.position;
        if is_later {
            self.chunk = None;
            self.position = tail.next;
            self.lead.iter().for_each(|lead| lead.moved(self.position));
            self.fold = tail.fold.clone();
        }
        is_later
    }

    /// The offset below which items are not for the reader.
    pub const fn wanted(&self) -> Offset {
        self.wanted
    }
}

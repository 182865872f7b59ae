//! The fan-out as an observer of a channel's feeds.
//!
//! Owns what a move of a tail means to subscriptions, and the router's own names for reading with a fan-out.

use std::sync::Arc;

use reading::chunk::Item;
use reading::feed::{Counts, Move, Observer};
use reading::tail::Tail;
use schemas::ids::Partition;

use super::matches::ChunkMatches;
use super::{Concerned, FanOut};
use crate::metrics::ReaderMeter;

/// A partition's feed, with the fan-out as its observer.
pub type Feed = reading::feed::Feed<ChannelObserver>;
/// A follower of such a feed.
pub type Follower = reading::follower::Follower<ChannelObserver>;
/// A chunk with its matches.
pub type Chunk = reading::chunk::Chunk<ChunkMatches>;

/// Matches chunks, notifies subscriptions and counts records.
pub struct ChannelObserver {
    fan_out: Arc<FanOut>,
    meter: ReaderMeter,
}

impl ChannelObserver {
    pub const fn new(fan_out: Arc<FanOut>, meter: ReaderMeter) -> Self {
        Self { fan_out, meter }
    }

    /// What the partition's readers count.
    pub const fn meter(&self) -> &ReaderMeter {
        &self.meter
    }
}

/// Whom a chunk concerns.
pub(super) fn concerned(chunk: &Chunk) -> Concerned<'_> {
    match &chunk.note {
        Some(matches) => Concerned::MatchedBy(matches),
        None if chunk.items.is_empty() => Concerned::Nobody,
        None => Concerned::All,
    }
}

impl Observer for ChannelObserver {
    type Note = ChunkMatches;

    fn note(&self, partition: Partition, items: &[Item]) -> Option<ChunkMatches> {
        self.fan_out.match_items(partition, items)
    }

    fn read(&self, counts: Counts) {
        self.meter.read(counts);
    }

    fn moves(&self, partition: Partition, to: Move<'_, ChunkMatches>, step: &mut dyn FnMut() -> Arc<Tail>) {
        let concerned = match to {
            Move::Chunk(chunk) => concerned(chunk),
            Move::Elsewhere => Concerned::All,
            Move::Recovered => Concerned::Nobody,
        };
        self.fan_out.move_tail(partition, concerned, step);
    }
}

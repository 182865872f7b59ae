//! One stream's way along a partition: a follower that sleeps at the tail while nothing there is for it.
//!
//! Owns when that is so. What it passes in its sleep it has neither read nor judged: the audience has, for everybody, and would
//! have called. Its place goes on all the same when somebody looks.

use std::sync::Arc;

use super::audience::{Heard, Seat};
use super::follower::Follower;
use super::reader::{Chunk, ReaderError};

/// A follower with a seat.
pub struct Listener {
    follower: Follower,
    /// How many changes had come when it fell asleep.
    asleep: Option<u64>,
}

/// What a listener comes to next.
pub enum Next {
    /// A chunk to be read.
    Chunk(Arc<Chunk>),
    /// It has passed a stretch that holds nothing for it.
    Passed {
        /// The changes in it.
        changes: u64,
    },
    /// There is nothing now.
    Nothing,
}

impl Listener {
    /// Awake, where the follower stands.
    pub const fn new(follower: Follower) -> Self {
        Self { follower, asleep: None }
    }

    /// The follower, at the listener's place.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Whether nothing is there for it until its seat is called.
    pub const fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// Moves on.
    pub async fn next(&mut self, seat: &Seat) -> Result<Next, ReaderError> {
        if let Some(known) = self.asleep.take() {
            let feed = self.follower.feed();
            let (place, is_called) = match seat.hear(feed.source().partition, || feed.tail()) {
                Heard::Nothing { until } => (until, false),
                Heard::Called { from } => (from, true),
            };
            self.asleep = (!is_called).then_some(place.changes);
            if self.follower.skip_to(&place) {
                return Ok(Next::Passed { changes: place.changes.saturating_sub(known) });
            }
            if !is_called {
                return Ok(Next::Nothing);
            }
        }
        if let Some(chunk) = self.follower.next().await? {
            return Ok(Next::Chunk(chunk));
        }
        let (feed, position) = (self.follower.feed(), self.follower.position());
        self.asleep = seat.sleep(feed.source().partition, position, || feed.tail());
        Ok(Next::Nothing)
    }
}

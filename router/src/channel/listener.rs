//! One stream's way along a partition: a follower that sleeps at the tail while nothing there is for it.
//!
//! Owns when that is so. What it passes in its sleep it has neither read nor judged: the audience has, for everybody, and would
//! have called. Its place goes on all the same when somebody looks.

use std::sync::Arc;

use super::audience::{Heard, Seat};
use super::follower::Follower;
use super::reader::{Chunk, ReaderError};
use super::tail::Tail;

/// A follower with a seat.
pub struct Listener {
    follower: Follower,
    /// The tail where it fell asleep, or where it looked last.
    asleep: Option<Arc<Tail>>,
}

/// What a listener comes to next.
pub enum Next {
    /// A chunk to be read.
    Chunk(Arc<Chunk>),
    /// It has passed a stretch that holds nothing for it.
    Passed {
        /// The changes in it, as far as they were not counted before.
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
            let (tail, is_called) = match seat.hear(feed.source().partition, || feed.tail()) {
                Heard::Nothing { until } => (until, false),
                Heard::Called { from } => (from, true),
            };
            // Beyond the tail it has judged for itself, or wants nothing.
            let is_counted = known.next == self.follower.place().offset;
            self.asleep = (!is_called).then(|| Arc::clone(&tail));
            if self.follower.skip_to(&tail) {
                let changes = if is_counted { tail.changes.saturating_sub(known.changes) } else { 0 };
                return Ok(Next::Passed { changes });
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

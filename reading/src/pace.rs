//! The tail's pace: it does not run away from a follower who takes everything in any case.
//!
//! Owns how long the tail waits, and for whom. What a follower finds in memory costs a third of what it reads again from
//! the log; a tail that runs away makes its followers slower, and they fall behind for good. Never waits for a consumer.

use std::time::Duration;

use schemas::ids::Offset;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the tail waits for a follower that does not move: it may be waiting for a broker.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long the tail waits for one that moves: the answers to batches wait for the tail.
const LONGEST: Duration = Duration::from_secs(2);

/// The position of the follower for whom the tail waits, if there is one.
#[derive(Debug)]
pub(crate) struct Pace(watch::Sender<Option<Offset>>);

impl Default for Pace {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Pace {
    /// A follower at a position. There is one at a time: the last who moves is waited for.
    pub(crate) fn lead(&self, position: Offset) -> Lead {
        let lead = Lead(self.0.clone());
        lead.moved(position);
        lead
    }

    /// Waits while the follower moves, and `would_lose` says of its position that it loses what is there in memory.
    pub(crate) async fn keep(&self, would_lose: impl Fn(Offset) -> bool) {
        let mut position = self.0.subscribe();
        let deadline = Instant::now() + LONGEST;
        while position.borrow_and_update().is_some_and(&would_lose) {
            let until = deadline.min(Instant::now() + PATIENCE);
            if !matches!(tokio::time::timeout_at(until, position.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// The tail waits for its holder.
#[derive(Debug)]
pub(crate) struct Lead(watch::Sender<Option<Offset>>);

impl Lead {
    pub(crate) fn moved(&self, position: Offset) {
        self.0.send_replace(Some(position));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

//! One stream's reader of a partition: a follower that waits at the tail while nothing there is for it.
//!
//! Owns when it waits. Records that pass while it waits are neither read nor judged again: the fan-out has matched them
//! for all subscriptions, and would have notified. A poll moves its place all the same.

use std::sync::Arc;

use reading::error::ReaderError;
use reading::tail::Tail;

use super::observer::{Chunk, Follower};
use super::{Polled, Subscription};

/// A follower with a subscription.
pub struct Subscriber {
    follower: Follower,
    /// The tail where it began to wait, or where it polled last.
    waits_at: Option<Arc<Tail>>,
}

/// A subscriber's next step.
pub enum Next {
    /// A chunk to be read.
    Chunk(Arc<Chunk>),
    /// It has passed records that give it nothing.
    Passed {
        /// The changes among them that were not counted before.
        changes: u64,
    },
    /// There is nothing now.
    Nothing,
}

impl Subscriber {
    /// At the follower's place; it does not wait yet.
    pub const fn new(follower: Follower) -> Self {
        Self { follower, waits_at: None }
    }

    /// The follower, at the subscriber's place.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Whether it waits for a notification of its subscription.
    pub const fn is_waiting(&self) -> bool {
        self.waits_at.is_some()
    }

    pub async fn next(&mut self, subscription: &Subscription) -> Result<Next, ReaderError> {
        if let Some(known) = self.waits_at.take() {
            let feed = self.follower.feed();
            let (tail, is_notified) = match subscription.poll(feed.source().partition, || feed.tail()) {
                Polled::Nothing { until } => (until, false),
                Polled::Notified { from } => (from, true),
            };
            // Up to a place beyond that tail, it has judged for itself, or wants nothing.
            let is_counted = known.next == self.follower.place().offset;
            self.waits_at = (!is_notified).then(|| Arc::clone(&tail));
            if self.follower.skip_to(&tail) {
                let changes = if is_counted { tail.changes.saturating_sub(known.changes) } else { 0 };
                return Ok(Next::Passed { changes });
            }
            if !is_notified {
                return Ok(Next::Nothing);
            }
        }
        if let Some(chunk) = self.follower.next().await? {
            return Ok(Next::Chunk(chunk));
        }
        let feed = self.follower.feed();
        let position = self.follower.position();
        self.waits_at = subscription.wait_at(feed.source().partition, position, || feed.tail());
        Ok(Next::Nothing)
    }
}

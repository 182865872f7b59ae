//! Shadow mode: only counts of what a proposed agreement would give, over a channel's log or over new events.
//!
//! Owns the counts. No row, key or value is ever kept, returned or logged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use reading::chunk::Item;
use reading::error::ReaderError;
use reading::located::LocatedChange;
use reading::tail::Tail;
use schemas::delivery::Reason;
use schemas::ids::{ChannelName, Offset};
use schemas::per_partition::PerPartition;
use schemas::publish::ShadowCounts;
use tokio::sync::watch;
use tokio::time::Instant;

use super::start::StartPositionError;
use crate::audit::service::AuditError;
use crate::control::view::ControlView;
use crate::fanout::observer::Chunk;
use crate::fanout::observer::Follower;
use crate::grants::{Grant, GrantError};

/// How long a shadow may take.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Why there are no counts.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// The proposed agreement, or the one in force, does not compile on its own schema.
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error("there is no channel {0}, or this router does not serve it now")]
    NoChannel(ChannelName),
    /// The log cannot be judged from there.
    #[error(transparent)]
    Start(#[from] StartPositionError),
    /// Counts of a state would reveal who is in it.
    #[error("from must be earliest, latest or a time; a shadow does not begin at the state or at a cursor")]
    NotTheLog,
    /// Nothing is judged without an entry in the audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// A proposed agreement, compared with the one in force under its number, if there is one.
pub struct Shadow {
    proposed: Grant,
    in_force: Option<Grant>,
    view: watch::Receiver<Arc<ControlView>>,
    counts: ShadowCounts,
}

impl Shadow {
    /// Nothing is judged yet.
    pub fn new(proposed: Grant, in_force: Option<Grant>, view: watch::Receiver<Arc<ControlView>>) -> Self {
        let beside = in_force.as_ref().map(Grant::version);
        Self { proposed, in_force, view, counts: ShadowCounts { beside, ..ShadowCounts::default() } }
    }

    /// Judges from the followers' places up to the log's present end, or, if `is_live`, until the time is up.
    pub async fn run(
        mut self,
        mut followers: PerPartition<Follower>,
        is_live: bool,
        within: Duration,
    ) -> Result<ShadowCounts, ShadowError> {
        let until = Instant::now() + within.min(LONGEST);
        let end = |follower: &Follower| (!is_live).then(|| follower.feed().tail().next);
        let ends: PerPartition<Option<Offset>> = followers.values().map(end).collect();
        let is_behind =
            |follower: &Follower, end: &Option<Offset>| end.is_none_or(|end| follower.place().offset < end);
        loop {
            let mut is_moving = false;
            for (follower, end) in followers.values_mut().zip(ends.values()) {
                if Instant::now() >= until || self.counts.suspended.is_some() {
                    break;
                }
                if is_behind(follower, end)
                    && let Some(chunk) = follower.next().await?
                {
                    is_moving = true;
                    self.judge(&chunk, follower.wanted(), *end);
                    // A log that is all in memory is read without a pause.
                    tokio::task::yield_now().await;
                }
            }
            let is_over = self.counts.suspended.is_some() || Instant::now() >= until;
            let is_at_end =
                followers.values().zip(ends.values()).all(|(follower, end)| !is_behind(follower, end));
            if is_over || is_at_end {
                self.counts.is_whole = is_at_end || (is_live && self.counts.suspended.is_none());
                self.counts.places = followers.values().map(Follower::place).collect();
                return Ok(self.counts);
            }
            if !is_moving && !moved(&followers, until).await {
                // A lost partition does not reach its end.
                self.counts.places = followers.values().map(Follower::place).collect();
                return Ok(self.counts);
            }
        }
    }

    fn judge(&mut self, chunk: &Chunk, from: Offset, end: Option<Offset>) {
        for item in &chunk.items {
            let Item::Block(block) = item else { continue };
            if block.offset < from || end.is_some_and(|end| block.offset >= end) {
                continue;
            }
            for event in block.changes() {
                if self.counts.suspended.is_none() {
                    self.judge_one(&event);
                }
            }
        }
    }

    fn judge_one(&mut self, event: &LocatedChange<'_>) {
        let view = Arc::clone(&self.view.borrow());
        let counts = &mut self.counts;
        let scope = match self.proposed.scope(&view, event.schema, event.codec()) {
            Ok(scope) => scope,
            Err(error) => return counts.suspended = Some(error.to_string()),
        };
        let change = event.change;
        counts.events += 1;
        for field in scope.pending() {
            if !counts.pending.contains(field) {
                counts.pending.insert(field.clone());
            }
        }
        let gives = match scope.judge(change.op, change.key, &change.images) {
            Err(_) => return counts.parked += 1,
            Ok(None) => {
                counts.nothing += 1;
                false
            }
            Ok(Some(permitted)) => {
                match permitted.get().reason() {
                    Reason::Enter => counts.enter += 1,
                    Reason::Leave => counts.leave += 1,
                    Reason::Change | Reason::State => counts.change += 1,
                }
                true
            }
        };
        // An agreement that is suspended under this schema gives nothing.
        let in_force = self.in_force.as_mut();
        let in_force = in_force.and_then(|scopes| scopes.scope(&view, event.schema, event.codec()).ok());
        let given = in_force.is_some_and(|scope| {
            scope.judge(change.op, change.key, &change.images).is_ok_and(|permitted| permitted.is_some())
        });
        counts.gained += u64::from(gives && !given);
        counts.lost += u64::from(given && !gives);
    }
}

/// Waits for news in any partition until `until`; `false` if no more can come.
async fn moved(followers: &PerPartition<Follower>, until: Instant) -> bool {
    let news = followers.values().map(|follower| {
        let mut tail = follower.feed().watch();
        let position = follower.place().offset;
        Box::pin(async move {
            let is_news = |tail: &Arc<Tail>| tail.next > position || tail.lost().is_some();
            tail.wait_for(is_news).await.is_ok_and(|tail| tail.lost().is_none())
        })
    });
    match tokio::time::timeout_at(until, select_all(news)).await {
        Ok((is_news, _, _)) => is_news,
        // The time is up: the caller sees.
        Err(_) => true,
    }
}

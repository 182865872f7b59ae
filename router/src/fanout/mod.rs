//! Fan-out: each chunk at a channel's tail is matched once for all subscriptions, and only those with a match in it are
//! notified.
//!
//! Owns the subscriptions and their notifications. Its matches equal what each scope gives by itself. A subscription
//! that a chunk was not matched for, or whose matches would take too much memory, is notified, and judges the chunk by
//! itself. One lock orders the moves of the tails and the notifications: a subscription that polls and finds no
//! notification has missed nothing up to the tail.

pub mod matches;
pub mod observer;
pub mod subscriber;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reading::chunk::{CHUNK_BYTES, Item};
use reading::located::LocatedChange;
use reading::tail::Tail;
use schemas::ids::{Offset, Partition, SchemaId};
use scope::denial::Denial;
use scope::index::{Index, Lookup};
use scope::permit::RecordMetadata;
use scope::scope::{Decision, Scope};
use tokio::sync::Notify;

use self::matches::{ChunkMatches, Generation, GroupMatches, Matched, Membership, Memberships};

/// Bytes of memory for the matches of one chunk, for all subscriptions together. A scope that matches much judges the
/// chunk by itself.
const KEPT_BYTES: usize = 4 * CHUNK_BYTES;

/// All subscriptions at the tails of one channel.
#[derive(Debug, Default)]
pub struct FanOut(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_schema: HashMap<SchemaId, Arc<Index>>,
    generation: Generation,
    subscriptions: HashMap<SubscriptionId, Subscribed>,
    /// The id of the next subscription.
    next: SubscriptionId,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
struct SubscriptionId(u64);

/// What is known of a subscription.
#[derive(Debug, Default)]
struct Subscribed {
    memberships: Memberships,
    /// The tail before the first chunk that it was notified of, by partition.
    notified: HashMap<Partition, Arc<Tail>>,
    notify: Arc<Notify>,
}

/// One subscriber at the tails of a channel's partitions; it ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    fan_out: Arc<FanOut>,
    id: SubscriptionId,
    notify: Arc<Notify>,
    /// A copy of the fan-out's memberships, to read without its lock.
    memberships: Memberships,
}

/// Whom a move of the tail concerns.
#[derive(Debug, Clone, Copy)]
pub enum Concerned<'m> {
    All,
    Nobody,
    /// Those with matches in a chunk, and those that it was not matched for.
    MatchedBy(&'m ChunkMatches),
}

/// What a subscription finds when it polls a partition's tail.
#[derive(Debug)]
pub enum Polled {
    /// There was nothing for it up to here.
    Nothing { until: Arc<Tail> },
    /// There is something for it.
    Notified {
        /// It begins here or later.
        from: Arc<Tail>,
    },
}

impl Concerned<'_> {
    fn is(self, memberships: &Memberships) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::MatchedBy(matches) => !matches.has_nothing_for(memberships),
        }
    }
}

impl FanOut {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subscription without a scope: it is notified of everything.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut state = self.lock();
        let id = state.next;
        state.next = SubscriptionId(id.0 + 1);
        let notify = Arc::clone(&state.subscriptions.entry(id).or_default().notify);
        Subscription { fan_out: Arc::clone(self), id, notify, memberships: Memberships::new() }
    }

    /// Moves a partition's tail, and notifies the subscriptions concerned. `step` moves it; returns the tail before.
    pub fn move_tail(
        &self,
        partition: Partition,
        concerned: Concerned<'_>,
        step: impl FnOnce() -> Arc<Tail>,
    ) {
        let mut state = self.lock();
        let from = step();
        for subscribed in state.subscriptions.values_mut().filter(|one| concerned.is(&one.memberships)) {
            subscribed.notified.entry(partition).or_insert_with(|| Arc::clone(&from));
            subscribed.notify.notify_one();
        }
    }

    /// Matches a chunk's items for all subscriptions. `None` if there is no scope, if an image cannot be judged at all,
    /// or if every replica starts over.
    pub fn match_items(&self, partition: Partition, items: &[Item]) -> Option<ChunkMatches> {
        let (by_schema, generation) = {
            let state = self.lock();
            (state.by_schema.clone(), state.generation)
        };
        if by_schema.is_empty() {
            return None;
        }
        let mut by_group: HashMap<_, Option<GroupMatches>> = HashMap::new();
        let mut schemas = Vec::new();
        let mut kept = 0;
        let mut changes = 0;
        let mut lookup = Lookup::default();
        for (item, content) in items.iter().enumerate() {
            let block = match content {
                Item::Block(block) => block,
                Item::Resync { .. } => return None,
                Item::Poison { .. } => continue,
            };
            let schema = block.schema;
            changes += block.count();
            if !schemas.contains(&schema) {
                schemas.push(schema);
            }
            let Some(scopes) = by_schema.get(&schema) else { continue };
            for event in block.changes() {
                let LocatedChange { change, position, logged_at, trace, .. } = event;
                let event_at = change.event_at;
                let metadata = RecordMetadata { partition, position, event_at, logged_at, trace };
                let tell = |group, found: Result<&Decision<'_>, Denial>| {
                    let group = by_group.entry((schema, group)).or_insert_with(|| Some(GroupMatches::none()));
                    let Some(of_group) = group else { return };
                    kept -= of_group.size();
                    of_group.add(item, metadata, found);
                    if kept + of_group.size() <= KEPT_BYTES {
                        kept += of_group.size();
                    } else {
                        *group = None;
                    }
                };
                scopes.judge(change.op, change.key, &change.images, &mut lookup, tell).ok()?;
            }
        }
        by_group.values_mut().flatten().for_each(GroupMatches::shrink);
        Some(ChunkMatches { generation, by_group, schemas, changes })
    }
}

impl Subscription {
    /// Subscribes with a scope to events of a schema, if it does not yet.
    pub fn add(&mut self, schema: SchemaId, scope: &Arc<Scope>) {
        if self.memberships.contains_key(&schema) {
            return;
        }
        let mut state = self.fan_out.lock();
        let State { by_schema, generation, subscriptions, .. } = &mut *state;
        // Copied only while a chunk is being matched.
        let group = Arc::make_mut(by_schema.entry(schema).or_default()).add(Arc::clone(scope));
        *generation = generation.next();
        self.memberships.insert(schema, Membership { group, since: *generation });
        if let Some(subscribed) = subscriptions.get_mut(&self.id) {
            subscribed.memberships.clone_from(&self.memberships);
        }
    }

    /// How many subscriptions its channel has.
    pub fn of_channel(&self) -> usize {
        self.fan_out.lock().subscriptions.len()
    }

    /// A chunk's matches for it; `None` where the chunk was not matched.
    pub fn matched<'c>(&self, matches: &'c ChunkMatches) -> Option<Matched<'c>> {
        matches.of(&self.memberships)
    }

    /// Waits at an offset of a partition from now on, unless the tail is further; returns the tail. Drops earlier
    /// notifications: they are about earlier records.
    pub fn wait_at(
        &self,
        partition: Partition,
        at: Offset,
        tail: impl FnOnce() -> Arc<Tail>,
    ) -> Option<Arc<Tail>> {
        let mut state = self.fan_out.lock();
        let tail = tail();
        if at < tail.next {
            return None;
        }
        state.subscriptions.get_mut(&self.id)?.notified.remove(&partition);
        Some(tail)
    }

    /// What has come for it since it began to wait.
    pub fn poll(&self, partition: Partition, tail: impl FnOnce() -> Arc<Tail>) -> Polled {
        let state = self.fan_out.lock();
        let notified = state.subscriptions.get(&self.id).map(|subscribed| &subscribed.notified);
        match notified.and_then(|notified| notified.get(&partition)) {
            Some(from) => Polled::Notified { from: Arc::clone(from) },
            None => Polled::Nothing { until: tail() },
        }
    }

    /// Waits for a notification, or takes one since the last call.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.fan_out.lock();
        let State { by_schema, subscriptions, .. } = &mut *state;
        subscriptions.remove(&self.id);
        for (schema, membership) in self.memberships.drain() {
            let Some(index) = by_schema.get_mut(&schema) else { continue };
            let index = Arc::make_mut(index);
            index.remove(membership.group);
            if index.is_empty() {
                by_schema.remove(&schema);
            }
        }
    }
}

#[cfg(test)]
mod tests;

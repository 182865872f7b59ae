//! The matches of a chunk for the subscriptions at the tail.
//!
//! Owns the matches, by schema and group of equal scopes. Only the fan-out knows a group's members.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::ids::SchemaId;
use scope::denial::Denial;
use scope::index::GroupId;
use scope::permit::{Outcome, Permitted};

/// What one event gives to a group of equal scopes, or why the event cannot be judged.
pub type Decision = Result<Arc<Permitted<Outcome>>, Denial>;

/// An item of a chunk, with a group's decision about it.
#[derive(Debug)]
pub struct Match {
    /// The item's index in the chunk.
    pub item: usize,
    pub decision: Decision,
}

/// The number of added scopes, when one of them was added or a chunk was matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(u64);

impl Generation {
    /// One more scope was added.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A group of equal scopes, and since when the subscription is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub group: GroupId,
    /// Chunks of earlier generations were not matched for it.
    pub since: Generation,
}

/// The groups of one subscription, by schema.
pub type Memberships = HashMap<SchemaId, Membership>;

/// The matches of a chunk for one subscription.
#[derive(Debug)]
pub struct Matched<'c> {
    /// In the items' order.
    pub matches: Vec<&'c Match>,
    /// How many of the chunk's changes give nothing.
    pub denied: usize,
}

/// A chunk's matches, by group.
#[derive(Debug)]
pub struct ChunkMatches {
    /// It was matched for the scopes of this generation or an earlier one.
    pub generation: Generation,
    /// By schema and group; `None` for those whose matches would take too much memory.
    pub by_group: HashMap<(SchemaId, GroupId), Option<Vec<Match>>>,
    /// The schemas of the chunk's changes.
    pub schemas: Vec<SchemaId>,
    /// How many changes it has.
    pub changes: usize,
}

impl ChunkMatches {
    /// The matches for these groups; `None` where it was not matched for them, or they were not kept.
    pub fn of(&self, memberships: &Memberships) -> Option<Matched<'_>> {
        let mut matches = Vec::new();
        for schema in &self.schemas {
            match self.by_group.get(&self.group(memberships, *schema)?) {
                None => {}
                Some(of_group) => matches.extend(of_group.as_ref()?),
            }
        }
        matches.sort_by_key(|found| found.item);
        let denied = self.changes - matches.len();
        Some(Matched { matches, denied })
    }

    /// Whether it was matched for these groups and has nothing for them.
    pub fn has_nothing_for(&self, memberships: &Memberships) -> bool {
        let has_nothing = |schema: &SchemaId| {
            self.group(memberships, *schema).is_some_and(|group| !self.by_group.contains_key(&group))
        };
        self.schemas.iter().all(has_nothing)
    }

    /// The group for a schema, if the chunk was matched for it.
    fn group(&self, memberships: &Memberships, schema: SchemaId) -> Option<(SchemaId, GroupId)> {
        let membership = memberships.get(&schema)?;
        (membership.since <= self.generation).then_some((schema, membership.group))
    }
}

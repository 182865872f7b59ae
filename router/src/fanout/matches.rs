//! What a chunk gives to those who subscribe at the tail.
//!
//! Owns what was found, by schema and group of equal scopes. Who is in which group is the fan-out's to know.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::ids::SchemaId;
use scope::denial::Denial;
use scope::index::GroupId;
use scope::permit::{Outcome, Permitted};

/// What a group of equal scopes is given of one event, or why the event cannot be judged.
pub type Decision = Result<Arc<Permitted<Outcome>>, Denial>;

/// An item of a chunk that a scope gives something of.
#[derive(Debug)]
pub struct Match {
    /// The item's index in the chunk.
    pub item: usize,
    pub decision: Decision,
}

/// How many scopes had been added when one of them was, or when a chunk was matched.
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

/// What a chunk gives to whom.
#[derive(Debug)]
pub struct ChunkMatches {
    /// For which scopes it was matched: those of this generation or an earlier one.
    pub generation: Generation,
    /// By schema and group; `None` for those whose matches would take too much memory.
    pub by_group: HashMap<(SchemaId, GroupId), Option<Vec<Match>>>,
    /// The schemas of the chunk's changes.
    pub schemas: Vec<SchemaId>,
    /// How many changes it has.
    pub changes: usize,
}

impl ChunkMatches {
    /// What it gives to the members of these groups; `None` where it was not matched for them.
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

    /// The group for a schema, if it was there when this was matched.
    fn group(&self, memberships: &Memberships, schema: SchemaId) -> Option<(SchemaId, GroupId)> {
        let membership = memberships.get(&schema)?;
        (membership.since <= self.generation).then_some((schema, membership.group))
    }
}

//! The matches of a chunk for the subscriptions at the tail.
//!
//! Owns the matches, by schema and group of equal scopes. Only the fan-out knows a group's members.

use std::collections::HashMap;

use reading::chunk::Note;
use schemas::ids::SchemaId;
use scope::denial::Denial;
use scope::index::GroupId;
use scope::permit::{Deliveries, Permitted, RecordMetadata};
use scope::scope::Decision;

/// A change of a chunk, with a group's decision about it.
#[derive(Debug)]
pub struct Match {
    /// The index of the change's block among the chunk's items.
    pub item: usize,
    /// Its index in the block.
    pub index: u32,
    /// The number of its delivery among the group's, or why it cannot be judged.
    pub decision: Result<usize, Denial>,
}

/// A group's matches in a chunk. Each delivery is written once, for all members of the group.
#[derive(Debug)]
pub struct GroupMatches {
    /// In the changes' order.
    pub matches: Vec<Match>,
    pub deliveries: Permitted<Deliveries>,
}

impl GroupMatches {
    /// A group without a match.
    pub fn none() -> Self {
        Self { matches: Vec::new(), deliveries: Permitted::none() }
    }

    /// Adds a change's decision.
    pub fn add(&mut self, item: usize, metadata: RecordMetadata, found: Result<&Decision<'_>, Denial>) {
        let number = self.deliveries.len();
        let deliver = |found: &Decision<'_>| found.deliver(metadata, &mut self.deliveries);
        let decision = found.and_then(deliver).map(|()| number);
        self.matches.push(Match { item, index: metadata.position.index, decision });
    }

    /// Gives back the memory that it does not use: a chunk is kept for a while.
    pub fn shrink(&mut self) {
        self.matches.shrink_to_fit();
        self.deliveries.shrink();
    }

    /// Bytes of memory that it takes: many small matches take more than their bytes.
    pub const fn size(&self) -> usize {
        self.deliveries.size() + self.matches.capacity() * size_of::<Match>()
    }
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
    /// In the changes' order, each with its group's deliveries.
    pub matches: Vec<(&'c Match, &'c Permitted<Deliveries>)>,
    /// How many of the chunk's changes give nothing.
    pub denied: usize,
}

/// A chunk's matches, by group.
#[derive(Debug)]
pub struct ChunkMatches {
    /// It was matched for the scopes of this generation or an earlier one.
    pub generation: Generation,
    /// By schema and group; `None` for those whose matches would take too much memory.
    pub by_group: HashMap<(SchemaId, GroupId), Option<GroupMatches>>,
    /// The schemas of the chunk's changes.
    pub schemas: Vec<SchemaId>,
    /// How many changes it has.
    pub changes: usize,
}

impl Note for ChunkMatches {
    fn size(&self) -> usize {
        let of_groups: usize = self.by_group.values().flatten().map(GroupMatches::size).sum();
        of_groups + self.by_group.capacity() * size_of::<Option<GroupMatches>>()
    }
}

impl ChunkMatches {
    /// The matches for these groups; `None` where it was not matched for them, or they were not kept.
    pub fn of(&self, memberships: &Memberships) -> Option<Matched<'_>> {
        let mut matches = Vec::new();
        for schema in &self.schemas {
            match self.by_group.get(&self.group(memberships, *schema)?) {
                None => {}
                Some(of_group) => {
                    let GroupMatches { matches: of_group, deliveries } = of_group.as_ref()?;
                    matches.extend(of_group.iter().map(|found| (found, deliveries)));
                }
            }
        }
        matches.sort_by_key(|(found, _)| (found.item, found.index));
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

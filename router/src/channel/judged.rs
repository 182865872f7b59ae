//! What a chunk gives to all who listen at the tail.
//!
//! Owns what was found, by schema and group of equal scopes. Who is in which group is the audience's.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::ids::SchemaId;
use scope::denial::Denial;
use scope::index::GroupId;
use scope::permit::{Outcome, Permitted};

/// What a listener is given of one event, or why it cannot be judged.
pub type Gain = Result<Arc<Permitted<Outcome>>, Denial>;
/// The items of a chunk that give something, by their place, in order.
pub type Gains = Vec<(usize, Gain)>;

/// The groups of one listener, by schema, and how many listeners had come when it came.
pub type Groups = HashMap<SchemaId, (GroupId, u64)>;

/// What a chunk gives to whom.
#[derive(Debug)]
pub struct Judged {
    /// How many had come.
    pub comings: u64,
    /// By schema and group; nothing of those for whom it was too much.
    pub gains: HashMap<(SchemaId, GroupId), Option<Gains>>,
    /// The schemas of the chunk's changes.
    pub schemas: Vec<SchemaId>,
    /// How many changes it has.
    pub changes: usize,
}

impl Judged {
    /// What it gives to these groups, in order, and how many of its changes give nothing; none where it was not judged for them.
    pub fn gains(&self, groups: &Groups) -> Option<(Vec<&(usize, Gain)>, usize)> {
        let mut all = Vec::new();
        for schema in &self.schemas {
            match self.gains.get(&self.known(groups, *schema)?) {
                None => {}
                Some(gains) => all.extend(gains.as_ref()?),
            }
        }
        all.sort_by_key(|(at, _)| *at);
        let nothing = self.changes - all.len();
        Some((all, nothing))
    }

    /// Whether it was judged for these groups and has nothing for them.
    pub fn gives_nothing(&self, groups: &Groups) -> bool {
        let has_nothing = |schema: &SchemaId| {
            self.known(groups, *schema).is_some_and(|known| !self.gains.contains_key(&known))
        };
        self.schemas.iter().all(has_nothing)
    }

    /// Its group for a schema, if that was there when this was judged.
    fn known(&self, groups: &Groups, schema: SchemaId) -> Option<(SchemaId, GroupId)> {
        let (group, came) = groups.get(&schema)?;
        (*came <= self.comings).then_some((schema, *group))
    }
}

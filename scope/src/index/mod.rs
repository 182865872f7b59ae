//! All scopes of a channel over one schema, found by an event's values in the fields that the scopes name.
//!
//! Owns which scopes are looked up and which must be scanned one by one. An index is never changed under a reader: a
//! change is made to a copy, which shares all unchanged parts with it. It decides as each scope does by itself.

mod column;
mod ranges;

use std::sync::Arc;

use schemas::avro::located::Located;
use schemas::change::{Images, Op};

use self::column::Column;
use crate::denial::Denial;
use crate::predicate::access::{AccessPredicate, AccessPredicates};
use crate::predicate::{Atoms, Formula, Truth, Truths};
use crate::scope::{Decision, Fingerprint, Hits, Scope};
use crate::sharded_map::ShardedMap;

/// Groups of one page: a change of a group copies its page.
const PAGE: usize = 128;

/// The number of a group of equal scopes in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u32);

/// Equal scopes: an event is decided and projected once for all of them.
#[derive(Debug, Clone)]
struct Group {
    scope: Arc<Scope>,
    fingerprint: Fingerprint,
    /// Its entries in the columns; `None` where it must always be scanned.
    access: Option<Arc<AccessPredicates>>,
    members: usize,
}

/// The scopes of one schema.
#[derive(Debug, Clone, Default)]
pub struct Index {
    pages: Vec<Arc<Vec<Option<Group>>>>,
    /// Numbers of removed groups, which new groups get.
    free: Vec<u32>,
    by_fingerprint: ShardedMap<Fingerprint>,
    columns: Vec<Arc<Column>>,
    scan_list: Arc<ScanList>,
    members: usize,
}

/// Groups without an access predicate. They are scanned one by one, but a test that they share is evaluated once.
#[derive(Debug, Clone, Default)]
struct ScanList {
    atoms: Atoms,
    each: Vec<(u32, Scanned)>,
}

/// How one group of the list is scanned.
#[derive(Debug, Clone)]
enum Scanned {
    /// By its formula over the shared tests.
    Formula(Arc<Formula>),
    /// As a whole: its images are of another schema.
    Whole,
}

/// The buffers of a look-up; the caller keeps them, so that they are allocated once.
#[derive(Debug, Default)]
pub struct Lookup {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Index {
    /// How many scopes there are.
    pub const fn len(&self) -> usize {
        self.members
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Adds a scope that was compiled against the index's schema.
    pub fn add(&mut self, scope: Arc<Scope>) -> GroupId {
        self.members += 1;
        let fingerprint = scope.fingerprint();
        if let [known] = self.by_fingerprint.get(&fingerprint) {
            let id = *known;
            if let Some(group) = self.occupied(id) {
                group.members += 1;
            }
            return GroupId(id);
        }
        let id = self.number();
        let access = scope.access_predicates().map(Arc::new);
        match &access {
            None => Arc::make_mut(&mut self.scan_list).add(id, &scope),
            Some(access) => access.all.iter().for_each(|one| self.column(one).add(one, id)),
        }
        self.by_fingerprint.add(fingerprint, id);
        if let Some(slot) = self.slot(id) {
            *slot = Some(Group { scope, fingerprint, access, members: 1 });
        }
        GroupId(id)
    }

    /// Removes a scope that was added.
    pub fn remove(&mut self, GroupId(id): GroupId) {
        let Some(group) = self.occupied(id) else { return };
        group.members -= 1;
        let gone = (group.members == 0).then(|| group.clone());
        self.members -= 1;
        let Some(Group { fingerprint, access, .. }) = gone else { return };
        match access {
            None => self.forget(id),
            Some(access) => access.all.iter().for_each(|one| self.column(one).remove(one, id)),
        }
        self.by_fingerprint.remove(&fingerprint, id);
        if let Some(slot) = self.slot(id) {
            *slot = None;
        }
        self.free.push(id);
    }

    /// Removes a group from the scan list. When most of the list's tests are not used any more, the list is built anew.
    fn forget(&mut self, id: u32) {
        let list = Arc::make_mut(&mut self.scan_list);
        list.each.retain(|(other, _)| *other != id);
        if list.atoms.len() <= 2 * list.named() {
            return;
        }
        let left: Vec<u32> = std::mem::take(list).each.into_iter().map(|(id, _)| id).collect();
        for id in left {
            if let Some(scope) = self.group(id).map(|group| Arc::clone(&group.scope)) {
                Arc::make_mut(&mut self.scan_list).add(id, &scope);
            }
        }
    }

    fn number(&mut self) -> u32 {
        if let Some(free) = self.free.pop() {
            return free;
        }
        let next = self.pages.last().map_or(PAGE, |page| page.len());
        if next == PAGE {
            self.pages.push(Arc::new(Vec::with_capacity(PAGE)));
        }
        let before = (self.pages.len() - 1) * PAGE;
        let within = self.pages.last_mut().map_or(0, |page| {
            let page = Arc::make_mut(page);
            page.push(None);
            page.len() - 1
        });
        u32::try_from(before + within).unwrap_or(u32::MAX)
    }

    fn slot(&mut self, id: u32) -> Option<&mut Option<Group>> {
        let at = usize::try_from(id).ok()?;
        Arc::make_mut(self.pages.get_mut(at / PAGE)?).get_mut(at % PAGE)
    }

    fn occupied(&mut self, id: u32) -> Option<&mut Group> {
        self.slot(id)?.as_mut()
    }

    fn group(&self, id: u32) -> Option<&Group> {
        let at = usize::try_from(id).ok()?;
        self.pages.get(at / PAGE)?.get(at % PAGE)?.as_ref()
    }

    /// The column of an access predicate's field; made where there is none yet.
    fn column(&mut self, access: &AccessPredicate) -> &mut Column {
        let known = self.columns.iter().position(|column| column.is_of(access.field()));
        let index = known.unwrap_or_else(|| {
            self.columns.push(Arc::new(Column::of(access.field().clone())));
            self.columns.len() - 1
        });
        // It was found or made a moment ago.
        #[allow(clippy::indexing_slicing, reason = "the position of a column that is there")]
        Arc::make_mut(&mut self.columns[index])
    }

    /// Decides over an event for all scopes. Calls `tell` for each group that gets something of it, or cannot judge it.
    pub fn judge(
        &self,
        op: Op,
        key: &str,
        images: &Images<'_>,
        lookup: &mut Lookup,
        mut tell: impl FnMut(GroupId, Result<&Decision<'_>, Denial>),
    ) -> Result<(), Denial> {
        self.hits(images.before, &mut lookup.before)?;
        self.hits(images.after, &mut lookup.after)?;
        let mut decide = |id: u32, scope: &Scope, hits: Hits, are_exact: bool| {
            let found = scope.decide(op, key, images, hits, are_exact, |found| tell(GroupId(id), Ok(found)));
            if let Err(denial) = found {
                tell(GroupId(id), Err(denial));
            }
        };
        let mut before = lookup.before.iter().peekable();
        let mut after = lookup.after.iter().peekable();
        while let Some(id) = before.peek().into_iter().chain(after.peek()).map(|id| **id).min() {
            let hits = Hits {
                before: before.next_if(|hit| **hit == id).is_some(),
                after: after.next_if(|hit| **hit == id).is_some(),
            };
            if let Some(Group { scope, access: Some(access), .. }) = self.group(id) {
                decide(id, scope, hits, access.are_exact);
            }
        }
        let atoms = &self.scan_list.atoms;
        let mut before = images.before.map(|image| atoms.on(image));
        let mut after = images.after.map(|image| atoms.on(image));
        for (id, scanned) in &self.scan_list.each {
            let (hits, are_exact) = match scanned {
                Scanned::Whole => (Hits { before: true, after: true }, false),
                Scanned::Formula(formula) => {
                    (Hits { before: holds(formula, &mut before)?, after: holds(formula, &mut after)? }, true)
                }
            };
            if (hits.before || hits.after)
                && let Some(Group { scope, .. }) = self.group(*id)
            {
                decide(*id, scope, hits, are_exact);
            }
        }
        Ok(())
    }

    /// The groups that an image's values lead to, each once, in order.
    fn hits(&self, image: Option<Located<'_>>, found: &mut Vec<u32>) -> Result<(), Denial> {
        found.clear();
        let Some(image) = image else { return Ok(()) };
        for column in &self.columns {
            column.hits(image, found)?;
        }
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        Ok(())
    }
}

impl ScanList {
    fn add(&mut self, id: u32, scope: &Scope) {
        let formula = scope.filter().map(|filter| Scanned::Formula(Arc::new(self.atoms.formula(filter))));
        self.each.push((id, formula.unwrap_or(Scanned::Whole)));
    }

    /// How many tests the formulas name, repetitions included.
    fn named(&self) -> usize {
        let size = |(_, scanned): &(u32, Scanned)| match scanned {
            Scanned::Formula(formula) => formula.size(),
            Scanned::Whole => 0,
        };
        self.each.iter().map(size).sum()
    }
}

fn holds(formula: &Formula, image: &mut Option<Truths<'_>>) -> Result<bool, Denial> {
    match image {
        None => Ok(false),
        Some(truths) => Ok(truths.of(formula)? == Truth::True),
    }
}

#[cfg(test)]
mod tests;

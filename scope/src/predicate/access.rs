//! Access predicates: values that one field must have for a predicate to hold. An index finds predicates by them. The
//! name is from the literature on publish and subscribe and on databases.
//!
//! Where an image hits none of a predicate's access predicates, the predicate does not hold on it.

use super::expression::{Comparison, Literal};
use super::filter::{Filter, Test};
use super::value::{Field, Key};

/// A bound of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound<K> {
    pub(crate) at: K,
    /// Whether the range includes the bound itself.
    pub(crate) is_in: bool,
}

impl<K: Ord> Bound<K> {
    /// As a lower bound: whether it admits a value.
    pub(crate) fn is_below<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        let order = self.at.borrow().cmp(value);
        order.is_lt() || (order.is_eq() && self.is_in)
    }

    /// As an upper bound: whether it admits a value.
    pub(crate) fn is_above<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        let order = self.at.borrow().cmp(value);
        order.is_gt() || (order.is_eq() && self.is_in)
    }
}

/// The access predicates of one predicate, which holds only on images that hit one of them.
#[derive(Debug, Clone)]
pub(crate) struct AccessPredicates {
    pub(crate) all: Vec<AccessPredicate>,
    /// Whether the predicate holds on every image that hits one.
    pub(crate) are_exact: bool,
}

/// A value, or some values, of one field.
#[derive(Debug, Clone)]
pub(crate) enum AccessPredicate {
    Point { field: Field, key: Key },
    Prefix { field: Field, prefix: String },
    Range { field: Field, lower: Option<Bound<Key>>, upper: Option<Bound<Key>> },
}

impl AccessPredicate {
    pub(crate) const fn field(&self) -> &Field {
        match self {
            Self::Point { field, .. } | Self::Prefix { field, .. } | Self::Range { field, .. } => field,
        }
    }

    /// A rank by how many events will probably hit it, judged by its form: the fewer the better.
    pub(crate) const fn breadth(&self) -> u8 {
        match self {
            Self::Point { .. } => 0,
            Self::Prefix { .. } => 1,
            Self::Range { lower: Some(_), upper: Some(_), .. } => 2,
            Self::Range { .. } => 3,
        }
    }
}

impl Filter {
    /// Its access predicates; `None` where no field needs a certain value for it to hold.
    pub(crate) fn access_predicates(&self) -> Option<AccessPredicates> {
        self.root.access_predicates()
    }
}

impl Test {
    /// Access predicates of which an image hits at least one wherever the test holds.
    fn access_predicates(&self) -> Option<AccessPredicates> {
        let point = |field: &Field, literal: &Literal| AccessPredicate::Point {
            field: field.clone(),
            key: Key::of(literal),
        };
        let exactly = |all| Some(AccessPredicates { all, are_exact: true });
        match self {
            Self::Constant(false) => exactly(Vec::new()),
            Self::Flag(field) => exactly(vec![point(field, &Literal::Bool(true))]),
            Self::In { field, set, .. } => exactly(set.iter().map(|literal| point(field, literal)).collect()),
            Self::StartsWith { field, prefix } => {
                exactly(vec![AccessPredicate::Prefix { field: field.clone(), prefix: prefix.clone() }])
            }
            Self::Compare { left, comparison: Comparison::Equal, right } => exactly(vec![point(left, right)]),
            Self::Compare { left, comparison, right } => exactly(vec![range(left, *comparison, right)?]),
            Self::Any(tests) => any(tests),
            Self::All(tests) => narrowest(tests),
            Self::Constant(true) | Self::Not(_) | Self::IsNull(_) | Self::CompareFields { .. } => None,
        }
    }
}

/// For alternatives: the access predicates of all of them.
fn any(tests: &[Test]) -> Option<AccessPredicates> {
    let mut whole = AccessPredicates { all: Vec::new(), are_exact: true };
    for test in tests {
        let AccessPredicates { all, are_exact } = test.access_predicates()?;
        whole.all.extend(all);
        whole.are_exact &= are_exact;
    }
    Some(whole)
}

/// The range of a comparison; `None` for `==` and `!=`.
fn range(field: &Field, comparison: Comparison, literal: &Literal) -> Option<AccessPredicate> {
    let bound = |is_in| Some(Bound { at: Key::of(literal), is_in });
    let (lower, upper) = match comparison {
        Comparison::Less => (None, bound(false)),
        Comparison::LessOrEqual => (None, bound(true)),
        Comparison::Greater => (bound(false), None),
        Comparison::GreaterOrEqual => (bound(true), None),
        Comparison::Equal | Comparison::NotEqual => return None,
    };
    Some(AccessPredicate::Range { field: field.clone(), lower, upper })
}

/// For tests that must all hold: the access predicates of the one that holds most seldom, judged by its form.
fn narrowest(tests: &[Test]) -> Option<AccessPredicates> {
    let found: Vec<Option<AccessPredicates>> = tests.iter().map(Test::access_predicates).collect();
    let have_all = found.iter().all(Option::is_some);
    let mut each: Vec<AccessPredicates> = Vec::with_capacity(found.len());
    for one in found.into_iter().flatten() {
        let whole = each.iter_mut().find_map(|known| joined(known, &one).map(|whole| (known, whole)));
        match whole {
            Some((known, whole)) => *known = whole,
            None => each.push(one),
        }
    }
    let is_only = have_all && each.len() == 1;
    let breadth = |one: &AccessPredicates| one.all.iter().map(AccessPredicate::breadth).max().unwrap_or(0);
    let AccessPredicates { all, are_exact } = each.into_iter().min_by_key(breadth)?;
    Some(AccessPredicates { all, are_exact: are_exact && is_only })
}

/// Joins a lower and an upper bound of one field to one range.
fn joined(left: &AccessPredicates, right: &AccessPredicates) -> Option<AccessPredicates> {
    let (
        [AccessPredicate::Range { field, lower, upper }],
        [AccessPredicate::Range { field: other, lower: low, upper: high }],
    ) = (left.all.as_slice(), right.all.as_slice())
    else {
        return None;
    };
    let are_two_bounds = lower.is_some() != low.is_some() && upper.is_some() != high.is_some();
    (field == other && are_two_bounds).then(|| {
        let lower = lower.clone().or(low.clone());
        let upper = upper.clone().or(high.clone());
        let all = vec![AccessPredicate::Range { field: field.clone(), lower, upper }];
        AccessPredicates { all, are_exact: left.are_exact && right.are_exact }
    })
}

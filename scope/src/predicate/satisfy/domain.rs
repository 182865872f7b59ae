//! All conditions on one field, and whether any value can meet them.
//!
//! Owns the orders of values, and the values between two bounds.

use std::collections::BTreeSet;

use crate::predicate::evaluate::holds;
use crate::predicate::expression::{Comparison, Literal};

/// The most whole values between two bounds that are tried one by one.
const MOST_BETWEEN: i128 = 64;

/// A bound, and whether the range includes it.
type Bound<'l> = Option<(&'l Literal, bool)>;

/// A condition on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// It is null, or it is not.
    Null(bool),
    /// Its comparison with a value.
    Stands(Comparison, Literal),
    /// It is one of these values, or none of them.
    In(BTreeSet<Literal>, bool),
    /// It begins with this prefix, or it does not.
    Prefix(String, bool),
}

impl Ask {
    /// The condition that a value meets where it does not meet this one.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Null(is_null) => Self::Null(!is_null),
            Self::Stands(comparison, literal) => Self::Stands(comparison.opposite(), literal),
            Self::In(set, is_in) => Self::In(set, !is_in),
            Self::Prefix(prefix, has) => Self::Prefix(prefix, !has),
        }
    }

    /// Whether a value meets it.
    fn holds_of(&self, value: &Literal) -> bool {
        match self {
            Self::Null(is_null) => !is_null,
            Self::Stands(comparison, literal) => holds(*comparison, value.cmp(literal)),
            Self::In(set, is_in) => set.contains(value) == *is_in,
            Self::Prefix(prefix, has) => {
                matches!(value, Literal::Text(text) if text.starts_with(prefix.as_str())) == *has
            }
        }
    }
}

/// All conditions on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    may_be_null: bool,
    /// All values of its type, where they are few.
    universe: Option<BTreeSet<Literal>>,
    asked: Vec<Ask>,
    /// For a test of two fields: whether it may be true, false, unknown.
    test: [bool; 3],
}

impl Domain {
    pub(super) fn of_field(may_be_null: bool, universe: Option<BTreeSet<Literal>>, ask: Ask) -> Self {
        Self { may_be_null, universe, asked: vec![ask], test: [true; 3] }
    }

    pub(super) const fn of_test(is_true: bool, is_false: bool, is_unknown: bool) -> Self {
        let test = [is_true, is_false, is_unknown];
        Self { may_be_null: true, universe: None, asked: Vec::new(), test }
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        for ask in other.asked {
            if !self.asked.contains(&ask) {
                self.asked.push(ask);
            }
        }
        self.test.iter_mut().zip(other.test).for_each(|(mine, other)| *mine &= other);
        self
    }

    /// Whether some value, or null, can meet all conditions.
    pub(super) fn is_possible(&self) -> bool {
        if !self.test.contains(&true) {
            return false;
        }
        let wants_null = self.asked.contains(&Ask::Null(true));
        let wants_value = self.asked.iter().any(|ask| *ask != Ask::Null(true));
        match (wants_null, wants_value) {
            (true, true) => false,
            (true, false) => self.may_be_null,
            (false, _) => self.has_value(),
        }
    }

    fn has_value(&self) -> bool {
        match self.candidates() {
            Some(candidates) => {
                candidates.iter().any(|value| self.asked.iter().all(|ask| ask.holds_of(value)))
            }
            None => self.bounds_fit() && self.prefixes_fit(),
        }
    }

    /// All values that have to be tried, where they are few.
    fn candidates(&self) -> Option<BTreeSet<Literal>> {
        let listed = self.asked.iter().filter_map(|ask| match ask {
            Ask::In(set, true) => Some(set.clone()),
            Ask::Stands(Comparison::Equal, literal) => Some(BTreeSet::from([literal.clone()])),
            _ => None,
        });
        let fewest = listed.chain(self.universe.clone()).min_by_key(BTreeSet::len);
        fewest.or_else(|| self.between())
    }

    /// The tightest lower and upper bound.
    fn bounds(&self) -> (Bound<'_>, Bound<'_>) {
        let (mut lower, mut upper): (Bound<'_>, Bound<'_>) = (None, None);
        for ask in &self.asked {
            match ask {
                Ask::Stands(how @ (Comparison::Greater | Comparison::GreaterOrEqual), literal) => {
                    let is_in = *how == Comparison::GreaterOrEqual;
                    let is_tighter = |(known, was_in): (&Literal, bool)| (literal, !is_in) > (known, !was_in);
                    if lower.is_none_or(is_tighter) {
                        lower = Some((literal, is_in));
                    }
                }
                Ask::Stands(how @ (Comparison::Less | Comparison::LessOrEqual), literal) => {
                    let is_in = *how == Comparison::LessOrEqual;
                    let is_tighter = |(known, was_in): (&Literal, bool)| (literal, is_in) < (known, was_in);
                    if upper.is_none_or(is_tighter) {
                        upper = Some((literal, is_in));
                    }
                }
                _ => {}
            }
        }
        (lower, upper)
    }

    /// The whole values between two bounds, where they are few.
    fn between(&self) -> Option<BTreeSet<Literal>> {
        let (Some((lower, lower_in)), Some((upper, upper_in))) = self.bounds() else { return None };
        let first = whole(lower)? + i128::from(!lower_in);
        let last = whole(upper)? - i128::from(!upper_in);
        (last - first < MOST_BETWEEN).then(|| (first..=last).filter_map(|value| like(lower, value)).collect())
    }

    fn bounds_fit(&self) -> bool {
        match self.bounds() {
            (Some((lower, lower_in)), Some((upper, upper_in))) => match lower.cmp(upper) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => {
                    lower_in && upper_in && self.asked.iter().all(|ask| ask.holds_of(lower))
                }
                std::cmp::Ordering::Greater => false,
            },
            _ => true,
        }
    }

    fn prefixes_fit(&self) -> bool {
        let of = |wanted: bool| {
            self.asked.iter().filter_map(move |ask| match ask {
                Ask::Prefix(prefix, has) if *has == wanted => Some(prefix.as_str()),
                _ => None,
            })
        };
        let Some(longest) = of(true).max_by_key(|prefix| prefix.len()) else {
            // Every text begins with the empty prefix.
            return !of(false).any(str::is_empty);
        };
        let (lower, upper) = self.bounds();
        let is_above = |(bound, _): (&Literal, bool)| matches!(bound, Literal::Text(bound) if bound.as_str() > longest && !bound.starts_with(longest));
        let is_below = |(bound, is_in): (&Literal, bool)| matches!(bound, Literal::Text(bound) if bound.as_str() < longest || (bound == longest && !is_in));
        of(true).all(|prefix| longest.starts_with(prefix))
            && !of(false).any(|prefix| longest.starts_with(prefix))
            && !lower.is_some_and(is_above)
            && !upper.is_some_and(is_below)
    }
}

fn whole(literal: &Literal) -> Option<i128> {
    match literal {
        Literal::Integer(value) => Some(i128::from(*value)),
        Literal::Date(days) => Some(i128::from(*days)),
        _ => None,
    }
}

/// A whole value of the same type.
fn like(literal: &Literal, value: i128) -> Option<Literal> {
    match literal {
        Literal::Date(_) => i32::try_from(value).ok().map(Literal::Date),
        _ => i64::try_from(value).ok().map(Literal::Integer),
    }
}

//! Predicates over bytes: the same meaning as over values, reading only the fields that are asked for.
//!
//! Owns the tests, and what an index can find them by.

use std::cmp::Ordering;

use schemas::avro::access::Access;
use schemas::avro::binary::DatumError;
use schemas::avro::located::Located;
use schemas::avro::schema::AvroSchema;

use super::evaluate::{Truth, holds};
use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, Predicate};
use super::value::{Field, Found, Key};
use crate::index::anchor::{Anchor, Anchors};
use crate::index::ranges::End;

/// A predicate over the bytes of one schema's datums.
#[derive(Debug, Clone)]
pub struct Filter {
    pub(super) root: Test,
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Constant(bool),
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Flag(Field),
    IsNull(Option<Access>),
    Compare {
        left: Field,
        comparison: Comparison,
        right: Literal,
    },
    CompareFields {
        left: Field,
        comparison: Comparison,
        right: Field,
    },
    /// In order.
    In {
        field: Field,
        set: Vec<Literal>,
        has_null: bool,
    },
    StartsWith {
        field: Field,
        prefix: String,
    },
}

impl Filter {
    /// The filter of a predicate that was compiled against this schema.
    pub fn new(predicate: &Predicate, schema: &AvroSchema) -> Self {
        Self { root: Test::of(&predicate.root, schema) }
    }

    /// What an index finds it by; none where it may hold on whatever there is.
    pub(crate) fn anchors(&self) -> Option<Anchors> {
        let (all, are_exact) = self.root.anchors()?;
        Some(Anchors { all, are_exact })
    }

    /// The predicate's truth on a datum. Only `True` admits.
    pub fn truth(&self, datum: Located<'_>) -> Result<Truth, DatumError> {
        self.root.truth(datum)
    }
}

impl Test {
    fn of(expression: &Expression, schema: &AvroSchema) -> Self {
        let each =
            |operands: &[Expression]| operands.iter().map(|operand| Self::of(operand, schema)).collect();
        let field = |path: &FieldPath| Field::of(path, schema);
        match expression {
            Expression::Constant(constant) => Self::Constant(*constant),
            Expression::And(operands) => Self::All(each(operands)),
            Expression::Or(operands) => Self::Any(each(operands)),
            Expression::Not(inner) => Self::Not(Box::new(Self::of(inner, schema))),
            Expression::Field(path) => Self::Flag(field(path)),
            Expression::IsNull(path) => Self::IsNull(Access::new(schema, &path.places)),
            Expression::Compare { left, comparison, right: Operand::Literal(right) } => {
                Self::Compare { left: field(left), comparison: *comparison, right: right.clone() }
            }
            Expression::Compare { left, comparison, right: Operand::Field(right) } => {
                Self::CompareFields { left: field(left), comparison: *comparison, right: field(right) }
            }
            Expression::In { field: path, set, has_null } => {
                Self::In { field: field(path), set: set.iter().cloned().collect(), has_null: *has_null }
            }
            Expression::StartsWith { field: path, prefix } => {
                Self::StartsWith { field: field(path), prefix: prefix.clone() }
            }
        }
    }

    pub(super) fn truth(&self, datum: Located<'_>) -> Result<Truth, DatumError> {
        Ok(match self {
            Self::Constant(constant) => Truth::of(*constant),
            Self::All(tests) => return fold(tests, |test| test.truth(datum), Truth::False, Truth::True),
            Self::Any(tests) => return fold(tests, |test| test.truth(datum), Truth::True, Truth::False),
            Self::Not(test) => test.truth(datum)?.not(),
            Self::Flag(field) => match field.read(datum)? {
                Some(Found::Bool(flag)) => Truth::of(flag),
                _ => Truth::Unknown,
            },
            Self::IsNull(None) => Truth::True,
            Self::IsNull(Some(access)) => Truth::of(access.find(datum)?.is_none()),
            Self::Compare { left, comparison, right } => match left.read(datum)? {
                Some(left) => compared(left.against(right), *comparison),
                None => Truth::Unknown,
            },
            Self::CompareFields { left, comparison, right } => {
                match (left.read(datum)?, right.read(datum)?) {
                    (Some(left), Some(right)) => compared(left.order(&right), *comparison),
                    _ => Truth::Unknown,
                }
            }
            Self::In { field, set, has_null } => match field.read(datum)? {
                None => Truth::Unknown,
                Some(found) if found.is_in(set) => Truth::True,
                Some(_) if *has_null => Truth::Unknown,
                Some(_) => Truth::False,
            },
            Self::StartsWith { field, prefix } => match field.read(datum)? {
                Some(Found::Text(text)) => Truth::of(text.starts_with(prefix)),
                _ => Truth::Unknown,
            },
        })
    }
}

/// Anchors one of which is hit wherever a test holds, and whether it holds wherever one is hit.
type Leads = (Vec<Anchor>, bool);

impl Test {
    fn anchors(&self) -> Option<Leads> {
        let point =
            |field: &Field, literal: &Literal| Anchor::Point { field: field.clone(), key: Key::of(literal) };
        let one = |anchor| Some((vec![anchor], true));
        match self {
            Self::Constant(false) => Some((Vec::new(), true)),
            Self::Flag(field) => one(point(field, &Literal::Bool(true))),
            Self::In { field, set, .. } => {
                Some((set.iter().map(|literal| point(field, literal)).collect(), true))
            }
            Self::StartsWith { field, prefix } => {
                one(Anchor::Prefix { field: field.clone(), prefix: prefix.clone() })
            }
            Self::Compare { left, comparison: Comparison::Equal, right } => one(point(left, right)),
            Self::Compare { left, comparison, right } => one(range(left, *comparison, right)?),
            Self::Any(tests) => {
                let (mut all, mut are_exact) = (Vec::new(), true);
                for test in tests {
                    let (anchors, is_exact) = test.anchors()?;
                    all.extend(anchors);
                    are_exact &= is_exact;
                }
                Some((all, are_exact))
            }
            Self::All(tests) => narrowest(tests),
            Self::Constant(true) | Self::Not(_) | Self::IsNull(_) | Self::CompareFields { .. } => None,
        }
    }
}

/// The range of a comparison; none for "other than".
fn range(field: &Field, comparison: Comparison, literal: &Literal) -> Option<Anchor> {
    let end = |is_in| Some(End { at: Key::of(literal), is_in });
    let (lower, upper) = match comparison {
        Comparison::Less => (None, end(false)),
        Comparison::LessOrEqual => (None, end(true)),
        Comparison::Greater => (end(false), None),
        Comparison::GreaterOrEqual => (end(true), None),
        Comparison::Equal | Comparison::NotEqual => return None,
    };
    Some(Anchor::Range { field: field.clone(), lower, upper })
}

/// Of tests that must all hold, the one that holds most seldom, as far as its form tells.
fn narrowest(tests: &[Test]) -> Option<Leads> {
    let found: Vec<Option<Leads>> = tests.iter().map(Test::anchors).collect();
    let are_all = found.iter().all(Option::is_some);
    let mut each: Vec<Leads> = Vec::with_capacity(found.len());
    for leads in found.into_iter().flatten() {
        let whole = each.iter_mut().find_map(|known| joined(known, &leads).map(|whole| (known, whole)));
        match whole {
            Some((known, whole)) => *known = whole,
            None => each.push(leads),
        }
    }
    let is_only = are_all && each.len() == 1;
    let breadth = |(all, _): &Leads| all.iter().map(Anchor::breadth).max().unwrap_or(0);
    let (all, are_exact) = each.into_iter().min_by_key(breadth)?;
    Some((all, are_exact && is_only))
}

/// The lower end of a field's range and the upper one are one range.
fn joined(left: &Leads, right: &Leads) -> Option<Leads> {
    let ([Anchor::Range { field, lower, upper }], [Anchor::Range { field: other, lower: low, upper: high }]) =
        (left.0.as_slice(), right.0.as_slice())
    else {
        return None;
    };
    let are_two_ends = lower.is_some() != low.is_some() && upper.is_some() != high.is_some();
    (field == other && are_two_ends).then(|| {
        let (lower, upper) = (lower.clone().or(low.clone()), upper.clone().or(high.clone()));
        (vec![Anchor::Range { field: field.clone(), lower, upper }], left.1 && right.1)
    })
}

/// Kleene's `&&` and `||`: `decisive` decides alone, else an unknown makes the whole unknown.
pub(super) fn fold<'t, T>(
    tests: &'t [T],
    mut truth: impl FnMut(&'t T) -> Result<Truth, DatumError>,
    decisive: Truth,
    otherwise: Truth,
) -> Result<Truth, DatumError> {
    let mut result = otherwise;
    for test in tests {
        match truth(test)? {
            found if found == decisive => return Ok(decisive),
            Truth::Unknown => result = Truth::Unknown,
            _ => {}
        }
    }
    Ok(result)
}

/// Values of two types have no order; the compiler has seen to it that there are none.
fn compared(order: Option<Ordering>, comparison: Comparison) -> Truth {
    order.map_or(Truth::Unknown, |order| Truth::of(holds(comparison, order)))
}

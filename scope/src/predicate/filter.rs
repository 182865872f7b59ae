//! Predicates over bytes: the same meaning as over values, reading only the fields that are asked for.
//!
//! Owns the tree of tests that a predicate is compiled to.

use std::cmp::Ordering;

use schemas::avro::access::Access;
use schemas::avro::binary::DatumError;
use schemas::avro::located::Located;
use schemas::avro::schema::AvroSchema;

use super::evaluate::{Truth, holds};
use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, Predicate};
use super::value::{Field, Found};

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
    /// `set` is sorted, for binary search.
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
            Expression::IsNull(path) => Self::IsNull(Access::new(schema, &path.indexes)),
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

/// Values of two types have no order; the compiler refuses to compare them.
fn compared(order: Option<Ordering>, comparison: Comparison) -> Truth {
    order.map_or(Truth::Unknown, |order| Truth::of(holds(comparison, order)))
}

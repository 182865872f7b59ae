//! The typed predicate: the tree that is built of a text and checked against a schema.
//!
//! Owns the tree's shape. Conjunctions and disjunctions are flat; depth is bounded.

use std::collections::BTreeSet;

/// A predicate, compiled against one schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    pub(super) root: Expression,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Constant(bool),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Field(FieldPath),
    IsNull(FieldPath),
    Compare { left: FieldPath, comparison: Comparison, right: Operand },
    In { field: FieldPath, set: BTreeSet<Literal>, has_null: bool },
    StartsWith { field: FieldPath, prefix: String },
}

/// A path of fields into a datum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldPath {
    /// Indexes of fields, outermost first.
    pub(super) indexes: Vec<usize>,
    /// As the text names it.
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Literal(Literal),
    Field(FieldPath),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value that can be compared: integers, dates and instants exactly; floats by their total order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Literal {
    Bool(bool),
    Integer(i64),
    Float(TotalFloat),
    Text(String),
    Date(i32),
    /// Nanoseconds since 1970, UTC.
    Instant(i128),
}

/// A float with PostgreSQL's order: NaN equals itself and is greater than all; -0 equals 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TotalFloat(pub(super) f64);

impl PartialEq for TotalFloat {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for TotalFloat {}

impl PartialOrd for TotalFloat {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TotalFloat {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.partial_cmp(&other.0).unwrap_or_else(|| self.0.is_nan().cmp(&other.0.is_nan()))
    }
}

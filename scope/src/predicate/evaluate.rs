//! Evaluation over decoded values, with SQL's three truths.
//!
//! Owns the meaning of null: a comparison, `in` or `startsWith` with null is unknown; `!` keeps it; `&&` and `||`
//! are Kleene's. Total: every expression has a truth on every value.

use std::cmp::Ordering;

use apache_avro::types::Value;
use serde::Serialize;

use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, Predicate, TotalFloat};

/// A truth of SQL's logic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    True,
    False,
    /// Neither, because of a null.
    Unknown,
}

impl Truth {
    pub(super) const fn of(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }

    pub(super) const fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl Predicate {
    /// The predicate's truth on a decoded record. Only `True` admits.
    pub fn evaluate(&self, value: &Value) -> Truth {
        truth(&self.root, value)
    }
}

pub(super) fn truth(expression: &Expression, value: &Value) -> Truth {
    match expression {
        Expression::Constant(constant) => Truth::of(*constant),
        Expression::And(operands) => fold(operands, value, Truth::False, Truth::True),
        Expression::Or(operands) => fold(operands, value, Truth::True, Truth::False),
        Expression::Not(inner) => truth(inner, value).not(),
        Expression::Field(path) => match literal_at(value, path) {
            Some(Literal::Bool(b)) => Truth::of(b),
            _ => Truth::Unknown,
        },
        Expression::IsNull(path) => Truth::of(at(value, path).is_none_or(|v| matches!(v, Value::Null))),
        Expression::Compare { left, comparison, right } => {
            let right = match right {
                Operand::Literal(literal) => Some(literal.clone()),
                Operand::Field(path) => literal_at(value, path),
            };
            match (literal_at(value, left), right) {
                (Some(left), Some(right)) => Truth::of(holds(*comparison, left.cmp(&right))),
                _ => Truth::Unknown,
            }
        }
        Expression::In { field, set, has_null } => match literal_at(value, field) {
            None => Truth::Unknown,
            Some(found) if set.contains(&found) => Truth::True,
            Some(_) if *has_null => Truth::Unknown,
            Some(_) => Truth::False,
        },
        Expression::StartsWith { field, prefix } => match literal_at(value, field) {
            Some(Literal::Text(text)) => Truth::of(text.starts_with(prefix)),
            _ => Truth::Unknown,
        },
    }
}

/// Kleene's `&&` and `||`: `decisive` decides alone, else an unknown makes the whole unknown.
fn fold(operands: &[Expression], value: &Value, decisive: Truth, otherwise: Truth) -> Truth {
    let mut result = otherwise;
    for operand in operands {
        match truth(operand, value) {
            found if found == decisive => return decisive,
            Truth::Unknown => result = Truth::Unknown,
            _ => {}
        }
    }
    result
}

/// Whether a comparison holds for sides of this order.
pub(super) const fn holds(comparison: Comparison, order: Ordering) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

fn at<'v>(value: &'v Value, path: &FieldPath) -> Option<&'v Value> {
    let mut value = bare(value);
    for index in &path.indexes {
        let Value::Record(fields) = value else { return None };
        value = bare(&fields.get(*index)?.1);
    }
    Some(value)
}

fn bare(value: &Value) -> &Value {
    match value {
        Value::Union(_, inner) => inner,
        other => other,
    }
}

pub(super) fn literal_at(value: &Value, path: &FieldPath) -> Option<Literal> {
    Some(match at(value, path)? {
        Value::Boolean(b) => Literal::Bool(*b),
        Value::Int(i) => Literal::Integer(i64::from(*i)),
        Value::Long(i) => Literal::Integer(*i),
        Value::Float(f) => Literal::Float(TotalFloat(f64::from(*f))),
        Value::Double(f) => Literal::Float(TotalFloat(*f)),
        Value::String(text) | Value::Enum(_, text) => Literal::Text(text.clone()),
        Value::Uuid(uuid) => Literal::Text(uuid.to_string()),
        Value::Date(days) => Literal::Date(*days),
        Value::TimestampMillis(ms) => Literal::Instant(i128::from(*ms) * 1_000_000),
        Value::TimestampMicros(us) => Literal::Instant(i128::from(*us) * 1_000),
        Value::TimestampNanos(ns) => Literal::Instant(i128::from(*ns)),
        _ => return None,
    })
}

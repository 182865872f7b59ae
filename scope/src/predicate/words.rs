//! A compiled predicate as text again, for people: in the subset, and in one spelling whatever the writer's was.
//!
//! Owns the spelling. Its text compiles to the same predicate.

use std::fmt::{Display, Formatter, Result};

use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, Predicate};

impl Display for Predicate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.root.fmt(f)
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Constant(constant) => constant.fmt(f),
            Self::And(operands) => joined(f, operands, " && "),
            Self::Or(operands) => joined(f, operands, " || "),
            Self::Not(inner) => match &**inner {
                Self::IsNull(field) => write!(f, "{field} != null"),
                inner => write!(f, "!({inner})"),
            },
            Self::Field(field) => field.fmt(f),
            Self::IsNull(field) => write!(f, "{field} == null"),
            Self::Compare { left, comparison, right } => write!(f, "{left} {comparison} {right}"),
            Self::In { field, set, has_null } => {
                write!(f, "{field} in [")?;
                for (index, literal) in set.iter().enumerate() {
                    write!(f, "{}{literal}", if index > 0 { ", " } else { "" })?;
                }
                let null = if set.is_empty() { "null" } else { ", null" };
                write!(f, "{}]", if *has_null { null } else { "" })
            }
            Self::StartsWith { field, prefix } => write!(f, "{field}.startsWith({})", quoted(prefix)),
        }
    }
}

fn joined(f: &mut Formatter<'_>, operands: &[Expression], by: &str) -> Result {
    for (index, operand) in operands.iter().enumerate() {
        let before = if index > 0 { by } else { "" };
        match operand {
            Expression::And(_) | Expression::Or(_) => write!(f, "{before}({operand})")?,
            operand => write!(f, "{before}{operand}")?,
        }
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Display for FieldPath {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&self.name)
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Literal(literal) => literal.fmt(f),
            Self::Field(field) => field.fmt(f),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            // The decimal point makes it a float.
            Self::Float(value) => write!(f, "{:?}", value.0),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Date(days) => match jiff::civil::date(1970, 1, 1)
                .checked_add(jiff::Span::new().try_days(*days).unwrap_or_default())
            {
                Ok(date) => write!(f, "date(\"{date}\")"),
                Err(_) => write!(f, "day {days} since 1970"),
            },
            Self::Instant(nanoseconds) => match jiff::Timestamp::from_nanosecond(*nanoseconds) {
                Ok(at) => write!(f, "timestamp(\"{at}\")"),
                Err(_) => write!(f, "nanosecond {nanoseconds} since 1970"),
            },
        }
    }
}

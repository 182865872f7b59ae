//! The clauses of a predicate that decided over an image.
//!
//! Owns the choice: for an "and" that fails, the clauses that fail; for an "or" that holds, the clauses that hold. It
//! works over values, for people, and decides nothing itself.

use apache_avro::types::Value;
use serde::Serialize;

use super::evaluate::{Truth, literal_at, truth};
use super::expression::{Expression, FieldPath, Operand, Predicate};

/// A clause of a predicate, with its truth on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    pub text: String,
    pub truth: Truth,
    /// Its fields and their values, as a predicate's text would write them.
    pub found: Vec<(String, String)>,
}

impl Predicate {
    /// The clauses that decided the predicate's truth on a decoded record.
    pub fn clauses(&self, value: &Value) -> Vec<Clause> {
        let mut clauses = Vec::new();
        decisive(&self.root, value, &mut clauses);
        clauses
    }
}

fn decisive(expression: &Expression, value: &Value, clauses: &mut Vec<Clause>) {
    let whole = truth(expression, value);
    match expression {
        Expression::And(operands) | Expression::Or(operands) => {
            let alike = operands.iter().filter(|operand| truth(operand, value) == whole);
            alike.for_each(|operand| decisive(operand, value, clauses));
        }
        single => {
            let mut fields = Vec::new();
            gather(single, &mut fields);
            let held = |field: &&FieldPath| {
                let held =
                    literal_at(value, field).map_or_else(|| "null".to_owned(), |held| held.to_string());
                (field.name.clone(), held)
            };
            clauses.push(Clause {
                text: single.to_string(),
                truth: whole,
                found: fields.iter().map(held).collect(),
            });
        }
    }
}

/// The fields that a clause names, each once.
fn gather<'e>(expression: &'e Expression, fields: &mut Vec<&'e FieldPath>) {
    let mut add = |field: &'e FieldPath| {
        if !fields.contains(&field) {
            fields.push(field);
        }
    };
    match expression {
        Expression::Constant(_) => {}
        Expression::And(operands) | Expression::Or(operands) => {
            operands.iter().for_each(|operand| gather(operand, fields));
        }
        Expression::Not(inner) => gather(inner, fields),
        Expression::Field(field)
        | Expression::IsNull(field)
        | Expression::In { field, .. }
        | Expression::StartsWith { field, .. } => add(field),
        Expression::Compare { left, right, .. } => {
            add(left);
            if let Operand::Field(right) = right {
                add(right);
            }
        }
    }
}

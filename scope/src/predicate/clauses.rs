//! Which parts of a predicate decided over an image.
//!
//! Owns the choice: of an "and" that fails, the parts that fail; of an "or" that holds, the parts that hold. It is for people,
//! over values, and decides nothing itself.

use apache_avro::types::Value;
use serde::Serialize;

use super::evaluate::{Truth, literal_at, truth};
use super::expression::{Expression, FieldPath, Operand, Predicate};

/// A part of a predicate on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    pub text: String,
    /// What it comes to.
    pub truth: Truth,
    /// Its fields and what they hold, as the text would write it.
    pub found: Vec<(String, String)>,
}

impl Predicate {
    /// The parts that made the predicate what it is on a decoded record.
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

/// The fields that a part asks for, each once.
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

//! Compiles a predicate's text: parses it on a thread of its own, then checks it against a schema.

use schemas::avro::schema::AvroSchema;

use super::expression::Predicate;
use super::{PredicateError, build, parse};

impl Predicate {
    /// Compiles a text against a record schema. Fields renamed in that schema are found by their aliases.
    pub fn compile(text: &str, schema: &AvroSchema) -> Result<Self, PredicateError> {
        parse::with_syntax(text, |program| build::build(program, text, schema)).map(|root| Self { root })
    }
}

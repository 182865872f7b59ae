//! The plain model: an agreement's decision over decoded values, in its simplest form.
//!
//! Owns nothing that runs in production: its outcomes are no permits. Tests compare the compiled engine with it.

use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use schemas::agreement::Agreement;
use schemas::avro::json::decode;
use schemas::avro::resolution::resolve_value;
use schemas::avro::schema::AvroSchema;
use schemas::change::Op;
use schemas::delivery::Reason;

use crate::compile::{CompileError, Compiled, Terms};
use crate::denial::Denial;
use crate::permit::Outcome;
use crate::predicate::Truth;

/// One agreement version compiled against one schema version. It decides over decoded values.
#[derive(Debug, Clone)]
pub struct Model {
    writer: AvroSchema,
    compiled: Compiled,
}

impl Model {
    /// Compiles an agreement against the records of one schema.
    pub fn compile(agreement: &Agreement, terms: &Terms<'_>) -> Result<Self, CompileError> {
        Ok(Self { writer: terms.writer.clone(), compiled: Compiled::new(agreement, terms)? })
    }

    /// Decides over an event: the consumer's outcome, or `None`.
    pub fn judge(
        &self,
        op: Op,
        key: &str,
        before: Option<&[u8]>,
        after: Option<&[u8]>,
    ) -> Result<Option<Outcome>, Denial> {
        let before = self.value(before)?;
        let after = self.value(after)?;
        let admits = |image: &Option<Value>| {
            image.as_ref().is_some_and(|image| self.compiled.predicate.evaluate(image) == Truth::True)
        };
        let (op, reason) = match (admits(&before), admits(&after)) {
            (true, true) => (Op::Update, Reason::Change),
            (true, false) if after.is_some() => (Op::Delete, Reason::Leave),
            (true, false) => (Op::Delete, Reason::Change),
            (false, true) if before.is_some() => (Op::Create, Reason::Enter),
            (false, true) => (if op == Op::Read { Op::Read } else { Op::Create }, Reason::Change),
            (false, false) => return Ok(None),
        };
        let image = after.filter(|_| op != Op::Delete);
        let after = image.map(|image| self.project(&image)).transpose()?;
        let compiled = &self.compiled;
        let key = if compiled.keeps_key { key.to_owned() } else { compiled.key.hash("key", key.as_bytes()) };
        Ok(Some(Outcome { op, key, after, reason }))
    }

    fn value(&self, image: Option<&[u8]>) -> Result<Option<Value>, Denial> {
        let Some(bytes) = image else { return Ok(None) };
        let value = decode(&self.writer, bytes)?;
        if !self.compiled.is_resolved {
            return Ok(Some(value));
        }
        resolve_value(value, &self.compiled.effective).map(Some).map_err(|_| Denial::Unresolvable)
    }

    fn project(&self, image: &Value) -> Result<Vec<u8>, Denial> {
        let Value::Record(fields) = image else { return Err(Denial::Unprojectable) };
        let mut kept = Vec::with_capacity(self.compiled.rules.len());
        for (index, rule) in &self.compiled.rules {
            let (_, value) = fields.get(*index).ok_or(Denial::Unprojectable)?;
            kept.push((rule.name.clone(), rule.apply(&self.compiled.key, value)));
        }
        GenericDatumWriter::builder(self.compiled.derived.parsed())
            .build()
            .and_then(|writer| writer.write_value_to_vec(Value::Record(kept)))
            .map_err(|_| Denial::Unprojectable)
    }
}

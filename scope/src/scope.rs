//! The scope: one agreement version compiled against one schema version, and the decision it makes.
//!
//! Owns the transition rule over both images and the projection of fields. This is the plain engine over decoded
//! values; it stays as the model against which any faster one is tested.

use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use schemas::agreement::{Agreement, Transform};
use schemas::avro::binary::DatumError;
use schemas::avro::json::decode;
use schemas::avro::resolution::resolve_value;
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::Op;
use schemas::delivery::Reason;
use schemas::key::{KeyDeriver, KeyError, KeySpec};
use serde_json::Value as Json;

use crate::derive;
use crate::permit::{Outcome, Permitted};
use crate::predicate::{Predicate, PredicateError, Truth};
use crate::secret::{AgreementKey, NetworkSecret};
use crate::transform::{FieldRule, misfit};

/// How a record's schema stands to the one that the agreement was written against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Written before: its records are resolved to the agreement's schema first.
    Older,
    /// The very one.
    Same,
    /// Written after: it must still have every named field, with its type.
    Newer,
}

/// Why an agreement cannot be compiled against a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A named field that its own schema never had.
    #[error("the agreement names field {field:?}, which its schema does not have; it has {known}")]
    UnknownField {
        /// The name.
        field: String,
        /// What there is.
        known: String,
    },
    /// A newer schema loses or retypes a named field.
    #[error("schema_mismatch: field {field:?} {what}; amend the agreement to the newer schema")]
    SchemaMismatch {
        /// The field as the agreement names it.
        field: String,
        /// `is gone` or `has another type`.
        what: &'static str,
    },
    /// A newer schema takes away what the row predicate stands on.
    #[error("schema_mismatch: {0}; amend the agreement to the newer schema")]
    PredicateMismatch(PredicateError),
    /// The row predicate is refused.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    /// A transform does not fit its field.
    #[error("field {field:?}: {why}")]
    Transform {
        /// The field.
        field: String,
        /// What the transform takes.
        why: &'static str,
    },
    /// A transform on a key field would join subjects.
    #[error(
        "field {0:?} is part of the key and cannot be masked or cut to its year: subjects would be joined; keep or hash it"
    )]
    JoinsKeys(String),
    /// A schema is not usable.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The key does not fit the schema.
    #[error("the channel's key: {0}")]
    Key(#[from] KeyError),
}

impl CompileError {
    /// Whether an amendment to a newer schema mends it.
    pub const fn is_schema_mismatch(&self) -> bool {
        matches!(self, Self::SchemaMismatch { .. } | Self::PredicateMismatch(_))
    }
}

/// Why an event could not be judged; it is parked, counted and named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// An image cannot be decoded.
    #[error("an image cannot be decoded: {0}")]
    Undecodable(#[from] DatumError),
    /// An image of an older schema cannot be resolved to the agreement's.
    #[error("an image of an older schema cannot be resolved to the agreement's schema")]
    Unresolvable,
    /// The permitted image cannot be encoded in the derived schema.
    #[error("the permitted image does not fit the derived schema")]
    Unprojectable,
}

impl Denial {
    /// The reason in a word, for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Unresolvable => "unresolvable",
            Self::Unprojectable => "unprojectable",
        }
    }
}

/// An event's images, decoded once for all scopes.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    before: Option<Value>,
    after: Option<Value>,
}

impl Images {
    /// Decodes the images of an event written in `subject`.
    pub fn decode(subject: &AvroSchema, before: Option<&[u8]>, after: Option<&[u8]>) -> Result<Self, Denial> {
        let read = |image: Option<&[u8]>| image.map(|bytes| decode(subject, bytes)).transpose();
        Ok(Self { before: read(before)?, after: read(after)? })
    }
}

/// The rows that a consumer has of an event's subject.
#[derive(Debug)]
pub struct Rows {
    /// Before the event.
    pub before: Option<Permitted<Outcome>>,
    /// After it.
    pub after: Option<Permitted<Outcome>>,
}

/// What a scope is compiled from, beside the agreement.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The schema that the agreement was written against.
    pub agreed: &'a AvroSchema,
    /// The schema of the records to be judged.
    pub writer: &'a AvroSchema,
    /// How the two stand to each other.
    pub age: Age,
    /// The channel's key.
    pub key: &'a KeySpec,
    /// For keyed hashes.
    pub secret: &'a NetworkSecret,
}

/// One agreement version compiled against one schema version.
#[derive(Debug, Clone)]
pub struct Scope {
    resolve_to: Option<AvroSchema>,
    predicate: Predicate,
    rules: Vec<(usize, FieldRule)>,
    derived: AvroSchema,
    keeps_key: bool,
    key: AgreementKey,
    pending: Vec<String>,
}

impl Scope {
    /// Compiles an agreement against the records of one schema.
    pub fn compile(agreement: &Agreement, terms: &Terms<'_>) -> Result<Self, CompileError> {
        let effective = if terms.age == Age::Newer { terms.writer } else { terms.agreed };
        let named = named_fields(agreement, terms.agreed)?;
        let mut rules = Vec::with_capacity(named.len());
        let mut derived = Vec::with_capacity(named.len());
        for (name, original, transform) in named {
            let kind = original.get("type").unwrap_or(&Json::Null);
            if let Some(why) = misfit(transform, kind) {
                return Err(CompileError::Transform { field: name.to_owned(), why });
            }
            let index = position(effective, name, kind, terms.age)?;
            let field = derive::field(original, transform);
            let null_branch = field.get("type").and_then(Json::as_array).and_then(|branches| {
                branches.iter().position(|b| b == "null").and_then(|index| u32::try_from(index).ok())
            });
            let rule = FieldRule {
                name: name.to_owned(),
                transform: transform.clone(),
                null_branch: null_branch.unwrap_or(0),
            };
            rules.push((index, rule));
            derived.push(field);
        }
        let predicate = Predicate::compile(&agreement.rows, effective).map_err(|error| match terms.age {
            Age::Newer => CompileError::PredicateMismatch(error),
            Age::Older | Age::Same => CompileError::Predicate(error),
        })?;
        Ok(Self {
            resolve_to: (terms.age == Age::Older).then(|| terms.agreed.clone()),
            predicate,
            keeps_key: keeps_key(agreement, terms)?,
            derived: terms.agreed.with_fields(&terms.agreed.record()?.name, derived)?,
            pending: pending(agreement, effective)?,
            key: terms.secret.agreement_key(&agreement.number),
            rules,
        })
    }

    /// The schema of the images that leave.
    pub const fn derived(&self) -> &AvroSchema {
        &self.derived
    }

    /// Fields of the records' schema that the agreement does not name: denied until a version names them.
    pub fn pending(&self) -> &[String] {
        &self.pending
    }

    /// Decides over an event: what its consumer gets, or nothing. Both images are judged.
    pub fn judge(&self, op: Op, key: &str, images: &Images) -> Result<Option<Permitted<Outcome>>, Denial> {
        let before = images.before.as_ref().map(|image| self.effective(image)).transpose()?;
        let after = images.after.as_ref().map(|image| self.effective(image)).transpose()?;
        let admits = |image: &Option<std::borrow::Cow<'_, Value>>| {
            image.as_ref().is_some_and(|image| self.predicate.evaluate(image) == Truth::True)
        };
        let (was_in, is_in) = (admits(&before), admits(&after));
        let (op, reason) = match (was_in, is_in) {
            (true, true) => (Op::Update, Reason::Change),
            (true, false) if after.is_some() => (Op::Delete, Reason::Leave),
            (true, false) => (Op::Delete, Reason::Change),
            (false, true) if before.is_some() => (Op::Create, Reason::Enter),
            (false, true) => (if op == Op::Read { Op::Read } else { Op::Create }, Reason::Change),
            (false, false) => return Ok(None),
        };
        let image = if is_in { after.as_deref() } else { None };
        self.permit(op, key, image, reason).map(Some)
    }

    /// Decides over a present image, as the state holds it.
    pub fn judge_present(&self, key: &str, image: &Value) -> Result<Option<Permitted<Outcome>>, Denial> {
        let image = self.effective(image)?;
        if self.predicate.evaluate(&image) != Truth::True {
            return Ok(None);
        }
        self.permit(Op::Read, key, Some(&image), Reason::State).map(Some)
    }

    /// Decides over the rows that an event's consumer has before and after it.
    pub fn judge_rows(&self, key: &str, images: &Images) -> Result<Rows, Denial> {
        let present = |image: &Option<Value>| match image {
            None => Ok(None),
            Some(image) => self.judge_present(key, image),
        };
        Ok(Rows { before: present(&images.before)?, after: present(&images.after)? })
    }

    fn effective<'v>(&self, image: &'v Value) -> Result<std::borrow::Cow<'v, Value>, Denial> {
        match &self.resolve_to {
            None => Ok(std::borrow::Cow::Borrowed(image)),
            Some(schema) => resolve_value(image.clone(), schema)
                .map(std::borrow::Cow::Owned)
                .map_err(|_| Denial::Unresolvable),
        }
    }

    fn permit(
        &self,
        op: Op,
        key: &str,
        image: Option<&Value>,
        reason: Reason,
    ) -> Result<Permitted<Outcome>, Denial> {
        let after = image.map(|image| self.project(image)).transpose()?;
        let key = if self.keeps_key { key.to_owned() } else { self.key.hash("key", key.as_bytes()) };
        Ok(Permitted::new(Outcome { op, key, after, reason }))
    }

    fn project(&self, image: &Value) -> Result<Vec<u8>, Denial> {
        let Value::Record(fields) = image else { return Err(Denial::Unprojectable) };
        let mut kept = Vec::with_capacity(self.rules.len());
        for (index, rule) in &self.rules {
            let (_, value) = fields.get(*index).ok_or(Denial::Unprojectable)?;
            kept.push((rule.name.clone(), rule.apply(&self.key, value)));
        }
        GenericDatumWriter::builder(self.derived.parsed())
            .build()
            .and_then(|writer| writer.write_value_to_vec(Value::Record(kept)))
            .map_err(|_| Denial::Unprojectable)
    }
}

/// The agreement's fields in the order of its schema, each with its JSON and its transform.
fn named_fields<'a>(
    agreement: &'a Agreement,
    agreed: &'a AvroSchema,
) -> Result<Vec<(&'a str, &'a Json, &'a Transform)>, CompileError> {
    let record = agreed.record()?;
    let names: Vec<&str> = record.record.fields.iter().map(|f| f.name.as_str()).collect();
    if let Some(field) = agreement.fields.keys().find(|name| !names.contains(&name.as_str())) {
        let known = names.into_iter().take(40).collect::<Vec<_>>().join(", ");
        return Err(CompileError::UnknownField { field: field.clone(), known });
    }
    let all = record.record.fields.iter().zip(record.fields);
    Ok(all
        .filter_map(|(field, json)| {
            agreement
                .fields
                .get_key_value(&field.name)
                .map(|(name, transform)| (name.as_str(), json, transform))
        })
        .collect())
}

/// Where a named field stands in the schema whose values are judged.
fn position(effective: &AvroSchema, name: &str, kind: &Json, age: Age) -> Result<usize, CompileError> {
    let record = effective.record()?;
    let fields = &record.record.fields;
    let by_name = fields.iter().position(|f| f.name == name);
    let index = by_name.or_else(|| fields.iter().position(|f| f.aliases.iter().any(|alias| alias == name)));
    let mismatch = |what| CompileError::SchemaMismatch { field: name.to_owned(), what };
    let index = index.ok_or_else(|| mismatch("is gone"))?;
    let found = record.fields.get(index).and_then(|f| f.get("type")).unwrap_or(&Json::Null);
    if age == Age::Newer && bare_type(found) != bare_type(kind) {
        return Err(mismatch("has another type"));
    }
    Ok(index)
}

/// A type without what only people read.
fn bare_type(kind: &Json) -> Json {
    match kind {
        Json::Array(items) => Json::Array(items.iter().map(bare_type).collect()),
        Json::Object(object) => Json::Object(
            object
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "doc" | "aliases" | "classification"))
                .map(|(name, value)| (name.clone(), bare_type(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Whether the key may leave as it is: every field of it is kept.
fn keeps_key(agreement: &Agreement, terms: &Terms<'_>) -> Result<bool, CompileError> {
    let deriver = KeyDeriver::new(terms.key, terms.agreed)?;
    let record = terms.agreed.record()?.record;
    let mut keeps = true;
    for name in deriver.field_indexes().filter_map(|index| record.fields.get(index)).map(|f| &f.name) {
        match agreement.fields.get(name) {
            Some(Transform::Keep) => {}
            Some(Transform::Mask { .. } | Transform::Year) => {
                return Err(CompileError::JoinsKeys(name.clone()));
            }
            Some(Transform::Hash | Transform::Null) | None => keeps = false,
        }
    }
    Ok(keeps)
}

fn pending(agreement: &Agreement, effective: &AvroSchema) -> Result<Vec<String>, CompileError> {
    let named = |f: &apache_avro::schema::RecordField| {
        agreement.fields.contains_key(&f.name) || f.aliases.iter().any(|a| agreement.fields.contains_key(a))
    };
    let record = effective.record()?.record;
    Ok(record.fields.iter().filter(|f| !named(f)).map(|f| f.name.clone()).collect())
}

#[cfg(test)]
mod tests;

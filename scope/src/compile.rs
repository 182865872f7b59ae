//! Compiles an agreement for both engines: fields with their indexes and rules, the predicate, the derived schema.
//!
//! Owns the check whether an agreement fits a schema, and the reasons why it does not. It judges no event.

use schemas::agreement::{Agreement, Transform};
use schemas::avro::bare::bare;
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::key::{KeyDeriver, KeyError, KeySpec};
use serde_json::Value as Json;

use crate::derive;
use crate::predicate::{Predicate, PredicateError};
use crate::secret::{AgreementKey, NetworkSecret};
use crate::transform::{FieldRule, misfit};

/// The relation of a record's schema to the schema that the agreement was written against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// An earlier version: its records are resolved to the agreement's schema first.
    Older,
    Same,
    /// A later version: it must still have every named field, with its type.
    Newer,
}

/// Why an agreement cannot be compiled against a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The agreement names a field that its own schema does not have.
    #[error("the agreement names field {field:?}, which its schema does not have; it has {known}")]
    UnknownField { field: String, known: String },
    /// A newer schema loses or retypes a named field.
    #[error("schema_mismatch: field {field:?} {what}; amend the agreement to the newer schema")]
    SchemaMismatch {
        /// The field as the agreement names it.
        field: String,
        /// `is gone` or `has another type`.
        what: &'static str,
    },
    /// The row predicate does not fit a newer schema.
    #[error("schema_mismatch: {0}; amend the agreement to the newer schema")]
    PredicateMismatch(PredicateError),
    /// The row predicate is refused.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    /// A transform does not fit its field.
    #[error("field {field:?}: {why}")]
    Transform {
        field: String,
        /// The types that the transform takes.
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
    /// Whether an amendment to a newer schema repairs it.
    pub const fn is_schema_mismatch(&self) -> bool {
        matches!(self, Self::SchemaMismatch { .. } | Self::PredicateMismatch(_))
    }
}

/// What a scope is compiled from, in addition to the agreement.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The schema that the agreement was written against.
    pub agreed: &'a AvroSchema,
    /// The schema of the records to be judged.
    pub writer: &'a AvroSchema,
    /// The relation of `writer` to `agreed`.
    pub age: Age,
    pub key: &'a KeySpec,
    /// For keyed hashes.
    pub secret: &'a NetworkSecret,
}

/// An agreement compiled against a schema, for whichever engine.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    /// The schema whose datums are judged.
    pub(crate) effective: AvroSchema,
    /// Whether records come in an older schema, and are resolved to `effective` first.
    pub(crate) is_resolved: bool,
    pub(crate) predicate: Predicate,
    /// The fields that leave, in order: the index of each in the effective schema, and its rule.
    pub(crate) rules: Vec<(usize, FieldRule)>,
    pub(crate) derived: AvroSchema,
    pub(crate) keeps_key: bool,
    pub(crate) key: AgreementKey,
    pub(crate) pending: Vec<String>,
}

impl Compiled {
    /// Compiles an agreement against the records of one schema.
    pub(crate) fn new(agreement: &Agreement, terms: &Terms<'_>) -> Result<Self, CompileError> {
        let effective = if terms.age == Age::Newer { terms.writer } else { terms.agreed };
        let named = named_fields(agreement, terms.agreed)?;
        let mut rules = Vec::with_capacity(named.len());
        let mut derived = Vec::with_capacity(named.len());
        for (name, original, transform) in named {
            let kind = original.get("type").unwrap_or(&Json::Null);
            // A field that is always null needs no transform.
            let transform = if kind == "null" { &Transform::Keep } else { transform };
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
            is_resolved: terms.age == Age::Older,
            predicate,
            keeps_key: keeps_key(agreement, terms)?,
            derived: terms.agreed.with_fields(&terms.agreed.record()?.name, derived)?,
            pending: pending(agreement, effective)?,
            key: terms.secret.agreement_key(&agreement.number),
            effective: effective.clone(),
            rules,
        })
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

/// The index of a named field in the effective schema, by its name or by an alias.
fn position(effective: &AvroSchema, name: &str, kind: &Json, age: Age) -> Result<usize, CompileError> {
    let record = effective.record()?;
    let fields = &record.record.fields;
    let by_name = fields.iter().position(|f| f.name == name);
    let index = by_name.or_else(|| fields.iter().position(|f| f.aliases.iter().any(|alias| alias == name)));
    let mismatch = |what| CompileError::SchemaMismatch { field: name.to_owned(), what };
    let index = index.ok_or_else(|| mismatch("is gone"))?;
    let found = record.fields.get(index).and_then(|f| f.get("type")).unwrap_or(&Json::Null);
    if age == Age::Newer && bare(found) != bare(kind) {
        return Err(mismatch("has another type"));
    }
    Ok(index)
}

/// Whether the key may leave as it is: the agreement keeps all its fields.
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

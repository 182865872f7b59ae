//! A schema that was checked: its text, its parsed form, its layout and its fingerprint, together.
//!
//! Owns strictness (what apache-avro lets pass and the specification does not), limits on hostile schemas, and
//! the rebuilding of a record's schema from chosen fields.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use apache_avro::Schema;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::binary::DatumError;
use super::fields::{FieldValue, Fields};
use super::layout::Layout;
use crate::ids::Fingerprint;
use crate::limits;

/// Why a text is not taken as a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Longer than any register's schema needs to be.
    #[error("the schema has {length} bytes; at most {} are taken", limits::MAX_SCHEMA_BYTES)]
    TooLong {
        /// Bytes of its text.
        length: usize,
    },
    /// Nested deeper than our readers' parsers can take.
    #[error("the schema is nested deeper than {} levels", limits::MAX_SCHEMA_DEPTH)]
    TooDeep,
    #[error("the schema is not JSON: {0}")]
    NotJson(String),
    /// JSON, but not an Avro schema.
    #[error("not a valid Avro schema: {0}")]
    NotAvro(String),
    /// A named type may not take a primitive's name (Avro specification, Names).
    #[error("a named type is called {0:?}, which is the name of a primitive type; rename it")]
    PrimitiveName(String),
    /// A subject must be a record.
    #[error("the schema is not a record; a subject of a channel must be one")]
    NotARecord,
}

pub(super) const PRIMITIVES: [&str; 8] =
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// A checked schema; cheap to clone.
#[derive(Clone)]
pub struct AvroSchema(Arc<Inner>);

struct Inner {
    json: Value,
    text: String,
    parsed: Schema,
    layout: Layout,
    fields: Fields,
    fingerprint: Fingerprint,
}

/// The schemas in use, by fingerprint: one text is parsed and kept once, however many agreements use it.
struct Held(Mutex<BTreeMap<Fingerprint, Weak<Inner>>>);

static HELD: Held = Held(Mutex::new(BTreeMap::new()));

impl Held {
    fn find(&self, fingerprint: Fingerprint, text: &str) -> Option<Arc<Inner>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&fingerprint)?.upgrade().filter(|known| known.text == text)
    }

    fn keep(&self, inner: &Arc<Inner>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time that their number is a power of two, those that are not in use any more are removed.
        if held.len().is_power_of_two() {
            held.retain(|_, known| known.strong_count() > 0);
        }
        held.insert(inner.fingerprint, Arc::downgrade(inner));
    }
}

impl AvroSchema {
    /// Parses and checks a schema's text.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > limits::MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLong { length: text.len() });
        }
        let json = serde_json::from_str(text).map_err(|e| SchemaError::NotJson(e.to_string()))?;
        Self::from_json(json)
    }

    /// Checks a schema that is already JSON.
    pub fn from_json(json: Value) -> Result<Self, SchemaError> {
        check_shape(&json, None, 0)?;
        let text = json.to_string();
        let mut prefix = [0; 16];
        prefix.copy_from_slice(Sha256::digest(text.as_bytes()).split_at(16).0);
        let fingerprint = Fingerprint::new(prefix);
        if let Some(known) = HELD.find(fingerprint, &text) {
            return Ok(Self(known));
        }
        let parsed = Schema::parse(&json).map_err(|e| SchemaError::NotAvro(e.to_string()))?;
        let layout = Layout::of(&parsed)
            .ok_or_else(|| SchemaError::NotAvro("it refers to a name that it does not define".to_owned()))?;
        let fields = Fields::of(&parsed);
        let inner = Arc::new(Inner { json, text, parsed, layout, fields, fingerprint });
        HELD.keep(&inner);
        Ok(Self(inner))
    }

    /// The schema as JSON.
    pub fn json(&self) -> &Value {
        &self.0.json
    }

    /// The schema as compact text; equal schemas that differ in white space have equal text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The form that apache-avro reads and writes with.
    pub fn parsed(&self) -> &Schema {
        &self.0.parsed
    }

    /// The form that bytes are walked with.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The values of a record's datum, in the order of its fields.
    pub(super) fn values<'d>(&self, datum: &'d [u8]) -> Result<Vec<FieldValue<'d>>, DatumError> {
        self.0.fields.values(&self.0.parsed, &self.0.layout, datum)
    }

    /// The first 128 bits of SHA-256 over the text.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// The full name, fields and their JSON when the schema is a record.
    pub fn record(&self) -> Result<RecordView<'_>, SchemaError> {
        let Schema::Record(record) = &self.0.parsed else { return Err(SchemaError::NotARecord) };
        let fields = self.0.json.get("fields").and_then(Value::as_array);
        Ok(RecordView { name: record.name.to_string(), record, fields: fields.map_or(&[], Vec::as_slice) })
    }

    /// A record schema with the given name and fields (JSON objects, in order). Types that were defined in a
    /// field left out are defined again where they are first used.
    pub fn with_fields(&self, name: &str, fields: Vec<Value>) -> Result<Self, SchemaError> {
        let mut definitions = HashMap::new();
        collect_definitions(&self.0.json, None, &mut definitions);
        let mut record = Map::new();
        record.insert("type".to_owned(), "record".into());
        record.insert("name".to_owned(), name.into());
        if let Some(doc) = self.0.json.get("doc") {
            record.insert("doc".to_owned(), doc.clone());
        }
        let namespace = self.0.parsed.namespace().map(str::to_owned);
        let mut seen = vec![name.to_owned()];
        let fields = fields
            .into_iter()
            .map(|field| inline(field, namespace.as_deref(), &definitions, &mut seen, 0))
            .collect::<Result<Vec<_>, _>>()?;
        record.insert("fields".to_owned(), Value::Array(fields));
        Self::from_json(Value::Object(record))
    }
}

impl std::fmt::Debug for AvroSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AvroSchema({})", self.0.fingerprint)
    }
}

impl PartialEq for AvroSchema {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for AvroSchema {}

/// A record schema's parts.
#[derive(Debug)]
pub struct RecordView<'a> {
    /// Full name.
    pub name: String,
    pub record: &'a apache_avro::schema::RecordSchema,
    /// The fields' JSON, in the same order.
    pub fields: &'a [Value],
}

fn check_shape(json: &Value, namespace: Option<&str>, depth: usize) -> Result<(), SchemaError> {
    if depth > limits::MAX_SCHEMA_DEPTH {
        return Err(SchemaError::TooDeep);
    }
    match json {
        Value::Array(items) => items.iter().try_for_each(|item| check_shape(item, namespace, depth + 1)),
        Value::Object(object) => {
            let named = defined_name(object, namespace);
            if let Some((full, _)) = &named
                && PRIMITIVES.contains(&full.as_str())
            {
                return Err(SchemaError::PrimitiveName(full.clone()));
            }
            let inside = named.as_ref().map_or(namespace, |(_, inner)| inner.as_deref());
            ["type", "items", "values", "fields"]
                .into_iter()
                .filter_map(|part| object.get(part))
                .try_for_each(|part| check_shape(part, inside, depth + 1))
        }
        _ => Ok(()),
    }
}

fn full_name(name: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(space) if !space.is_empty() && !name.contains('.') => format!("{space}.{name}"),
        _ => name.to_owned(),
    }
}

/// The full name and the namespace inside, for a JSON object that defines a named type.
fn defined_name(object: &Map<String, Value>, outer: Option<&str>) -> Option<(String, Option<String>)> {
    if !matches!(object.get("type").and_then(Value::as_str), Some("record" | "enum" | "fixed")) {
        return None;
    }
    let name = object.get("name").and_then(Value::as_str)?;
    let own = object.get("namespace").and_then(Value::as_str);
    let full = full_name(name, own.or(outer));
    let inner = full.rsplit_once('.').map(|(space, _)| space.to_owned());
    Some((full, inner))
}

fn collect_definitions(json: &Value, namespace: Option<&str>, found: &mut HashMap<String, Value>) {
    match json {
        Value::Array(items) => items.iter().for_each(|item| collect_definitions(item, namespace, found)),
        Value::Object(object) => {
            let named = defined_name(object, namespace);
            if let Some((full, _)) = &named {
                found.insert(full.clone(), json.clone());
            }
            let inside = named.as_ref().map_or(namespace, |(_, inner)| inner.as_deref());
            for part in ["type", "items", "values", "fields"] {
                if let Some(part) = object.get(part) {
                    collect_definitions(part, inside, found);
                }
            }
        }
        _ => {}
    }
}

fn inline(
    json: Value,
    namespace: Option<&str>,
    definitions: &HashMap<String, Value>,
    seen: &mut Vec<String>,
    depth: usize,
) -> Result<Value, SchemaError> {
    if depth > limits::MAX_SCHEMA_DEPTH {
        return Err(SchemaError::TooDeep);
    }
    Ok(match json {
        Value::String(name) => {
            if PRIMITIVES.contains(&name.as_str()) {
                return Ok(Value::String(name));
            }
            let full = full_name(&name, namespace);
            match definitions.get(&full) {
                Some(definition) if !seen.contains(&full) => {
                    inline(definition.clone(), namespace, definitions, seen, depth + 1)?
                }
                _ => Value::String(full),
            }
        }
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| inline(item, namespace, definitions, seen, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(mut object) => {
            let named = defined_name(&object, namespace);
            let mut inside = namespace.map(str::to_owned);
            if let Some((full, inner)) = named {
                if seen.contains(&full) {
                    return Ok(Value::String(full));
                }
                object.remove("namespace");
                object.insert("name".to_owned(), full.clone().into());
                seen.push(full);
                inside = inner;
            }
            let is_complex = matches!(object.get("type"), Some(Value::String(kind))
                if matches!(kind.as_str(), "record" | "enum" | "fixed" | "array" | "map"));
            for part in ["type", "items", "values"] {
                if part == "type" && is_complex {
                    continue;
                }
                if let Some(value) = object.remove(part) {
                    let value = inline(value, inside.as_deref(), definitions, seen, depth + 1)?;
                    object.insert(part.to_owned(), value);
                }
            }
            if let Some(Value::Array(fields)) = object.remove("fields") {
                let fields = fields
                    .into_iter()
                    .map(|field| inline(field, inside.as_deref(), definitions, seen, depth + 1))
                    .collect::<Result<_, _>>()?;
                object.insert("fields".to_owned(), Value::Array(fields));
            }
            Value::Object(object)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AvroSchema {
        AvroSchema::parse(text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn white_space_makes_no_other_schema() {
        let a = parse(r#"{"type":"record","name":"R","fields":[]}"#);
        let b = parse("{ \"name\": \"R\",\n \"type\": \"record\", \"fields\": [] }");
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert!(Arc::ptr_eq(&a.0, &b.0), "and it is kept once");
    }

    #[test]
    fn what_nobody_holds_is_not_kept() {
        let fingerprint = parse(r#"{"type":"fixed","name":"held","size":7}"#).fingerprint();
        assert!(HELD.find(fingerprint, r#"{"name":"held","size":7,"type":"fixed"}"#).is_none());
        for size in 0..300 {
            parse(&format!(r#"{{"type":"fixed","name":"many","size":{size}}}"#));
        }
        let held = HELD.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert!(held <= 256, "{held} after 300 that nobody holds");
    }

    #[test]
    fn hostile_schemas_are_refused_by_name() {
        assert!(matches!(
            AvroSchema::parse(r#"{"type":"enum","name":"int","symbols":["A"]}"#),
            Err(SchemaError::PrimitiveName(_))
        ));
        let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(100), "}".repeat(100));
        assert_eq!(AvroSchema::parse(&deep), Err(SchemaError::TooDeep));
        let deeper = "[".repeat(100_000);
        assert!(matches!(AvroSchema::parse(&deeper), Err(SchemaError::NotJson(_))));
        let long = " ".repeat(limits::MAX_SCHEMA_BYTES + 1);
        assert!(matches!(AvroSchema::parse(&long), Err(SchemaError::TooLong { .. })));
    }

    #[test]
    fn a_type_defined_in_a_dropped_field_is_defined_where_it_is_next_used() {
        let whole = parse(
            r#"{"type":"record","name":"lv.R","fields":[
                {"name":"a","type":{"type":"enum","name":"E","symbols":["X"]}},
                {"name":"b","type":["null","E"]},
                {"name":"c","type":"lv.E"}]}"#,
        );
        let fields = whole.record().map(|r| r.fields[1..].to_vec()).unwrap_or_default();
        let part = whole.with_fields("lv.R", fields).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            part.text(),
            r#"{"fields":[{"name":"b","type":["null",{"name":"lv.E","symbols":["X"],"type":"enum"}]},{"name":"c","type":"lv.E"}],"name":"lv.R","type":"record"}"#
        );
    }
}

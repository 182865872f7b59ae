//! Records of one schema as records of a newer one, over bytes: fields are copied to their new positions, wrapped where they
//! became optional, and filled where they are new.
//!
//! Owns the plan, which is made once for two schemas. It leaves difficult schemas to `resolution`, which resolves
//! values. Where there is a plan, both give equal records.

use apache_avro::schema::RecordField;
use serde_json::Value as Json;

use super::bare::bare;
use super::binary::{Cursor, DatumError, put_bytes, put_long, put_string};
use super::located::Located;
use super::schema::{AvroSchema, PRIMITIVES};

/// A plan that makes records of one schema records of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// One for each field of the reader, in order.
    fields: Vec<Source>,
}

/// Where a field of the reader comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A field of the writer, unchanged, after these bytes: the index of its branch, where it became optional.
    Copy {
        field: usize,
        behind: Vec<u8>,
    },
    /// A union of the writer: for each branch, the bytes of its index in the reader's union.
    Branches {
        field: usize,
        branches: Vec<Vec<u8>>,
    },
    Fill(Vec<u8>),
}

impl Resolver {
    /// The plan for two record schemas; `None` where only decoded values can be resolved.
    pub fn new(writer: &AvroSchema, reader: &AvroSchema) -> Option<Self> {
        let from = writer.record().ok()?;
        let to = reader.record().ok()?;
        let mut fields = Vec::with_capacity(to.fields.len());
        for (field, json) in to.record.fields.iter().zip(to.fields) {
            let kind = json.get("type")?;
            fields.push(match origin(field, &from.record.fields, &to.record.fields)? {
                None => Source::Fill(filled(kind, json.get("default")?)?),
                Some(index) => source(index, from.fields.get(index)?.get("type")?, kind)?,
            });
        }
        Some(Self { fields })
    }

    /// Appends a located record of the writer's schema as one of the reader's.
    pub fn resolve(&self, record: Located<'_>, out: &mut Vec<u8>) -> Result<(), DatumError> {
        const GONE: DatumError = DatumError::Invalid { at: 0, what: "a record lacks a field" };
        for source in &self.fields {
            match source {
                Source::Fill(bytes) => out.extend_from_slice(bytes),
                Source::Copy { field, behind } => {
                    out.extend_from_slice(behind);
                    out.extend_from_slice(record.field(*field).ok_or(GONE)?);
                }
                Source::Branches { field, branches } => {
                    let bytes = record.field(*field).ok_or(GONE)?;
                    let mut cursor = Cursor::new(bytes);
                    let branch = usize::try_from(cursor.long()?).ok().and_then(|branch| branches.get(branch));
                    out.extend_from_slice(branch.ok_or(GONE)?);
                    out.extend_from_slice(cursor.rest());
                }
            }
        }
        Ok(())
    }
}

/// The writer's field for a reader's field, by its name or by an alias: `Some(None)` where the field is new, `None`
/// where that is not clear.
fn origin(field: &RecordField, written: &[RecordField], reader: &[RecordField]) -> Option<Option<usize>> {
    if let Some(index) = written.iter().position(|one| one.name == field.name) {
        return Some(Some(index));
    }
    let named = |one: &RecordField| reader.iter().any(|field| field.name == one.name);
    let mut aliased =
        written.iter().enumerate().filter(|(_, one)| field.aliases.contains(&one.name) && !named(one));
    match (aliased.next(), aliased.next()) {
        (None, _) => Some(None),
        (Some((index, one)), None) => {
            // The first of the reader's fields with this alias gets the value.
            let first = reader.iter().find(|other| other.aliases.contains(&one.name))?;
            (first.name == field.name).then_some(Some(index))
        }
        (Some(_), Some(_)) => None,
    }
}

fn source(field: usize, writer: &Json, reader: &Json) -> Option<Source> {
    let branch = |index: usize| {
        let mut out = Vec::new();
        put_long(&mut out, i64::try_from(index).unwrap_or(i64::MAX));
        out
    };
    if is_copied(writer, reader) {
        return Some(Source::Copy { field, behind: Vec::new() });
    }
    let branch_of = |kind: &Json, branches: &[Json]| branches.iter().position(|one| is_same(kind, one));
    match (writer, reader) {
        (Json::Array(from), Json::Array(to)) => {
            let branches = from.iter().map(|kind| branch_of(kind, to).map(branch)).collect::<Option<_>>()?;
            Some(Source::Branches { field, branches })
        }
        (kind, Json::Array(to)) => Some(Source::Copy { field, behind: branch(branch_of(kind, to)?) }),
        _ => None,
    }
}

/// Whether a value has the same bytes in both types.
fn is_copied(writer: &Json, reader: &Json) -> bool {
    is_same(writer, reader) || (writer == "int" && reader == "long")
}

/// Whether two types are equal, and refer to no name that is defined elsewhere.
fn is_same(one: &Json, other: &Json) -> bool {
    let one = bare(one);
    let other = bare(other);
    one == other && is_whole(&one, &mut Vec::new())
}

/// Whether a type refers only to names that it has itself defined before.
fn is_whole(kind: &Json, names: &mut Vec<String>) -> bool {
    match kind {
        Json::String(name) => PRIMITIVES.contains(&name.as_str()) || names.contains(name),
        Json::Array(branches) => branches.iter().all(|branch| is_whole(branch, names)),
        Json::Object(object) => {
            names.extend(object.get("name").and_then(Json::as_str).map(ToOwned::to_owned));
            match object.get("type") {
                Some(Json::String(kind)) => match kind.as_str() {
                    "array" => object.get("items").is_some_and(|items| is_whole(items, names)),
                    "map" => object.get("values").is_some_and(|values| is_whole(values, names)),
                    "record" => object.get("fields").and_then(Json::as_array).is_some_and(|fields| {
                        fields.iter().all(|field| field.get("type").is_some_and(|kind| is_whole(kind, names)))
                    }),
                    "enum" | "fixed" => true,
                    plain => PRIMITIVES.contains(&plain),
                },
                Some(inner) => is_whole(inner, names),
                None => false,
            }
        }
        _ => false,
    }
}

/// A default's bytes; a union's default is a value of its first branch. `None` where that is not plain.
fn filled(kind: &Json, default: &Json) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let kind = match kind {
        Json::Array(branches) => {
            out.push(0);
            branches.first()?
        }
        other => other,
    };
    let logical = kind.get("logicalType").and_then(Json::as_str);
    let base = kind.as_str().or_else(|| kind.get("type").and_then(Json::as_str))?;
    match (base, default, logical) {
        ("null", Json::Null, None) => {}
        ("boolean", Json::Bool(value), None) => out.push(u8::from(*value)),
        ("int", Json::Number(value), None | Some("date" | "time-millis")) => {
            put_long(&mut out, i64::from(i32::try_from(value.as_i64()?).ok()?));
        }
        ("long", Json::Number(value), None) => put_long(&mut out, value.as_i64()?),
        ("double", Json::Number(value), None) => out.extend(value.as_f64()?.to_le_bytes()),
        ("string", Json::String(text), None) => put_string(&mut out, text),
        ("bytes", Json::String(text), None) if text.is_empty() => put_bytes(&mut out, &[]),
        ("array", Json::Array(items), None) if items.is_empty() => out.push(0),
        ("map", Json::Object(entries), None) if entries.is_empty() => out.push(0),
        _ => return None,
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::located::Ends;
    use crate::avro::resolution::resolve_datum;

    fn schema(fields: &str) -> AvroSchema {
        AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
    }

    /// The record that a plan gives; `None` where there is no plan.
    fn resolved(old: &AvroSchema, new: &AvroSchema, datum: &[u8]) -> Option<Vec<u8>> {
        let mut ends = Ends::default();
        let mut out = Vec::new();
        let located = ends.locate(old.layout(), datum).unwrap();
        Resolver::new(old, new)?.resolve(located, &mut out).unwrap();
        assert_eq!(resolve_datum(old, new, datum), Ok(out.clone()), "as over values");
        Some(out)
    }

    fn texts(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        texts.iter().for_each(|text| put_string(&mut out, text));
        out
    }

    #[test]
    fn fields_move_are_renamed_become_optional_and_are_filled() {
        let old = schema(
            r#"{"name":"a","type":"string"},{"name":"b","type":"string"},{"name":"gone","type":"string"},
               {"name":"u","type":["string","null"]},{"name":"i","type":"int"}"#,
        );
        let new = schema(
            r#"{"name":"i","type":"long","doc":"wider"},{"name":"B","aliases":["b"],"type":["null","string"]},
               {"name":"n","type":"string","default":"new"},{"name":"a","type":"string","default":"lost"},
               {"name":"o","type":["null","long"],"default":null},{"name":"u","type":["null","string"]}"#,
        );
        let mut datum = texts(&["1", "2", "3"]);
        datum.extend([0, 2, b'u', 7]);
        let expected = [&[7, 2, 2, b'2'][..], &texts(&["new", "1"]), &[0, 2, 2, b'u']].concat();
        assert_eq!(resolved(&old, &new, &datum), Some(expected));
    }

    #[test]
    fn what_is_not_plain_is_left_to_values() {
        let old = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string"}"#);
        for unlike in [
            r#"{"name":"a","type":"bytes"}"#,
            r#"{"name":"c","type":"string"}"#,
            r#"{"name":"c","type":{"type":"enum","name":"E","symbols":["x"]},"default":"x"}"#,
            r#"{"name":"c","type":"string","aliases":["a","b"]}"#,
        ] {
            assert_eq!(Resolver::new(&old, &schema(unlike)), None, "{unlike}");
        }
        // A name that is defined elsewhere may mean something else there.
        let of = |size: u8| {
            schema(&format!(
                r#"{{"name":"x","type":{{"type":"fixed","name":"F","size":{size}}}}},{{"name":"y","type":"F"}}"#
            ))
        };
        assert_eq!(Resolver::new(&of(1), &of(1)), None);
    }

    #[test]
    fn an_alias_never_overrides_a_field_of_that_name() {
        let old = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string"}"#);
        let new = schema(r#"{"name":"b","aliases":["a"],"type":"string"}"#);
        assert_eq!(resolved(&old, &new, &texts(&["1", "2"])), Some(texts(&["2"])));
    }
}

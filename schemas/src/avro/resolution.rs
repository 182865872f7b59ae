//! Resolves values of an older schema to a newer one (Avro specification, Schema Resolution), with aliases.
//!
//! Owns two corrections of apache-avro 0.22. When it resolves values, it ignores field aliases and silently gives the
//! field's default. It also refuses decimals that are written in fewer bytes than their precision may need.

use std::collections::HashMap;

use apache_avro::schema::Name;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema};

use super::binary::DatumError;
use super::json::decode;
use super::schema::AvroSchema;

/// A value that a newer schema cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Datum(#[from] DatumError),
    #[error("the value cannot be resolved into the other schema: {0}")]
    Schemas(String),
}

/// A value resolved into a reader's schema.
pub fn resolve_value(value: Value, reader: &AvroSchema) -> Result<Value, ResolveError> {
    let mut named = HashMap::new();
    collect(reader.parsed(), &mut named);
    let renamed = rename(value, reader.parsed(), &named);
    renamed.resolve(reader.parsed()).map_err(|e| ResolveError::Schemas(e.to_string()))
}

/// A datum of a writer's schema as a datum of a reader's.
pub fn resolve_datum(
    writer: &AvroSchema,
    reader: &AvroSchema,
    datum: &[u8],
) -> Result<Vec<u8>, ResolveError> {
    let value = resolve_value(decode(writer, datum)?, reader)?;
    GenericDatumWriter::builder(reader.parsed())
        .build()
        .and_then(|writer| writer.write_value_to_vec(value))
        .map_err(|e| ResolveError::Schemas(e.to_string()))
}

fn collect<'s>(schema: &'s Schema, named: &mut HashMap<Name, &'s Schema>) {
    match schema {
        Schema::Record(record) => {
            named.insert(record.name.clone(), schema);
            record.fields.iter().for_each(|field| collect(&field.schema, named));
        }
        Schema::Array(array) => collect(&array.items, named),
        Schema::Map(map) => collect(&map.types, named),
        Schema::Union(union) => union.variants().iter().for_each(|variant| collect(variant, named)),
        _ => {}
    }
}

/// Gives each field of a record the name that the reader has for it.
fn rename(value: Value, reader: &Schema, named: &HashMap<Name, &Schema>) -> Value {
    match (value, reader) {
        (value, Schema::Ref { name }) => match named.get(name) {
            Some(schema) => rename(value, schema, named),
            None => value,
        },
        (Value::Record(fields), Schema::Record(record)) => {
            let written: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
            let renamed = fields.into_iter().map(|(name, value)| {
                let by_name = record.fields.iter().find(|field| field.name == name);
                let by_alias =
                    || record.fields.iter().find(|f| f.aliases.contains(&name) && !written.contains(&f.name));
                match by_name.or_else(by_alias) {
                    Some(field) => (field.name.clone(), rename(value, &field.schema, named)),
                    None => (name, value),
                }
            });
            Value::Record(renamed.collect())
        }
        (Value::Union(index, inner), reader) => Value::Union(index, Box::new(rename(*inner, reader, named))),
        (value, Schema::Union(union)) => {
            let mut like = union.variants().iter().filter(|branch| is_like(&value, branch));
            match (like.next(), like.next()) {
                (Some(only), None) => rename(value, only, named),
                _ => value,
            }
        }
        (Value::Array(items), Schema::Array(array)) => {
            Value::Array(items.into_iter().map(|item| rename(item, &array.items, named)).collect())
        }
        (Value::Map(entries), Schema::Map(map)) => {
            Value::Map(entries.into_iter().map(|(k, v)| (k, rename(v, &map.types, named))).collect())
        }
        (Value::Decimal(number), Schema::Decimal(decimal)) => {
            Value::Decimal(widened(&number, decimal.precision))
        }
        (value, _) => value,
    }
}

/// Whether a value that holds others, or a decimal, is of a branch's kind.
const fn is_like(value: &Value, branch: &Schema) -> bool {
    matches!(
        (value, branch),
        (Value::Record(_), Schema::Record(_) | Schema::Ref { .. })
            | (Value::Array(_), Schema::Array(_))
            | (Value::Map(_), Schema::Map(_))
            | (Value::Decimal(_), Schema::Decimal(_))
    )
}

/// The same number in as many bytes as its precision may need.
fn widened(number: &Decimal, precision: usize) -> Decimal {
    let Ok(bytes) = Vec::<u8>::try_from(number) else { return number.clone() };
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
    // Eight bits hold 2.4 digits; one byte more is never too few.
    let wanted = precision.saturating_mul(5).div_ceil(12) + 1;
    let mut wide = vec![sign; wanted.saturating_sub(bytes.len())];
    wide.extend(bytes);
    Decimal::from(wide)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::binary::put_string;

    fn schema(fields: &str) -> AvroSchema {
        AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
    }

    #[test]
    fn a_renamed_field_keeps_its_value_and_does_not_take_its_default() {
        let old = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string"}"#);
        let new = schema(
            r#"{"name":"B","aliases":["b"],"type":"string","default":"lost"},
               {"name":"c","type":"string","default":"new"},{"name":"A","aliases":["a"],"type":"string"}"#,
        );
        let mut datum = Vec::new();
        put_string(&mut datum, "1");
        put_string(&mut datum, "2");
        let mut expected = Vec::new();
        ["2", "new", "1"].iter().for_each(|text| put_string(&mut expected, text));
        assert_eq!(resolve_datum(&old, &new, &datum), Ok(expected));
    }

    #[test]
    fn an_alias_never_overrides_a_field_of_that_name() {
        let old = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string"}"#);
        let new = schema(r#"{"name":"b","aliases":["a"],"type":"string"}"#);
        let mut datum = Vec::new();
        put_string(&mut datum, "1");
        put_string(&mut datum, "2");
        let mut expected = Vec::new();
        put_string(&mut expected, "2");
        assert_eq!(resolve_datum(&old, &new, &datum), Ok(expected));
    }

    #[test]
    fn a_small_decimal_is_resolved_as_any_other() {
        let of = |more: &str| {
            schema(&format!(
                r#"{{"name":"m","type":{{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}}}}{more}"#
            ))
        };
        let old = of("");
        let new = of(r#",{"name":"n","type":{"type":"enum","name":"E","symbols":["x"]},"default":"x"}"#);
        for (written, sign) in [(5, 0), (0xfb, 0xff)] {
            let resolved = resolve_datum(&old, &new, &[2, written]).unwrap();
            assert_eq!(resolved, [&[12][..], &[sign; 5], &[written, 0]].concat());
        }
        let value = decode(&old, &[2, 5]).unwrap();
        assert!(value.resolve(new.parsed()).is_err(), "fixed upstream: `widened` can go");
    }

    #[test]
    fn apache_avro_still_ignores_field_aliases_when_it_resolves_values() {
        let new = schema(r#"{"name":"A","aliases":["a"],"type":"string","default":"lost"}"#);
        let value = Value::Record(vec![("a".to_owned(), Value::String("kept".to_owned()))]);
        let resolved = value.resolve(new.parsed()).unwrap();
        let lost = Value::Record(vec![("A".to_owned(), Value::String("lost".to_owned()))]);
        assert_eq!(resolved, lost, "fixed upstream: this room can go");
    }
}

//! Datums as plain JSON for people: one object a row, logical types as text.
//!
//! Owns the rendering only; nothing is read back from it.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::types::Value;
use num_bigint::{BigInt, Sign};
use serde_json::{Map, Number, Value as Json};

use super::binary::DatumError;
use super::fields::{self, FieldValue};
use super::schema::AvroSchema;

/// Bytes of the longest decimal that is written as digits. A database's number holds fewer; the time to convert bytes
/// to digits grows with their square.
const LONGEST_DECIMAL: usize = 6_800;
/// The most digits after a decimal's point.
const MOST_DECIMALS: usize = 16_384;

/// A datum of the schema as a decoded value.
pub fn decode(schema: &AvroSchema, datum: &[u8]) -> Result<Value, DatumError> {
    schema.layout().validate(datum)?;
    fields::read(schema.parsed(), datum)
}

/// Writes rows of one schema as lines of JSON.
pub struct JsonRows<'s> {
    schema: &'s AvroSchema,
    /// Each member's name as JSON with its colon, and its field, in the order of the names.
    members: Vec<(String, usize)>,
    name: &'s dyn Fn(&str) -> String,
}

impl<'s> JsonRows<'s> {
    /// Of a record's schema. `name` gives the JSON's name for a field of the schema.
    pub fn of(schema: &'s AvroSchema, name: &'s dyn Fn(&str) -> String) -> Result<Self, DatumError> {
        let fields = fields::of_record(schema.parsed())?;
        let names = fields.iter().enumerate().map(|(index, field)| (name(&field.name), index));
        // The last of several equal names, as in any map.
        let members: BTreeMap<String, usize> = names.collect();
        let quoted = |(name, field): (String, usize)| (format!("{}:", Json::String(name)), field);
        Ok(Self { schema, members: members.into_iter().map(quoted).collect(), name })
    }

    /// Appends a row's line.
    pub fn put(&self, row: &[u8], out: &mut Vec<u8>) -> Result<(), DatumError> {
        let values = self.schema.values(row)?;
        let fields = fields::of_record(self.schema.parsed())?;
        out.push(b'{');
        for (index, (name, field)) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            let (Some(value), Some(field)) = (values.get(*field), fields.get(*field)) else { continue };
            self.put_value(&field.schema, value, out)?;
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn put_value(
        &self,
        schema: &Schema,
        value: &FieldValue<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DatumError> {
        let written = match value {
            FieldValue::Null => serde_json::to_writer(out, &()),
            FieldValue::Text(text) => serde_json::to_writer(out, text),
            FieldValue::Whole(number) => serde_json::to_writer(out, number),
            FieldValue::Boolean(is_true) => serde_json::to_writer(out, is_true),
            FieldValue::Other(value) => serde_json::to_writer(out, &render(schema, value, self.name)),
        };
        written.map_err(|_| DatumError::Invalid { at: 0, what: "a value has no JSON" })
    }
}

/// A decoded value as plain JSON. `name` gives the JSON's name for a field of the schema.
pub fn render(schema: &Schema, value: &Value, name: &dyn Fn(&str) -> String) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Long(i) => Json::from(*i),
        Value::Float(f) => render_float(f64::from(*f)),
        Value::Double(f) => render_float(*f),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => Json::String(hex::encode(bytes)),
        Value::String(text) | Value::Enum(_, text) => Json::String(text.clone()),
        Value::Union(index, inner) => {
            let branch = match schema {
                Schema::Union(union) => {
                    usize::try_from(*index).ok().and_then(|i| union.variants().get(i)).unwrap_or(schema)
                }
                _ => schema,
            };
            render(branch, inner, name)
        }
        Value::Array(items) => {
            let item = if let Schema::Array(array) = schema { &array.items } else { schema };
            Json::Array(items.iter().map(|v| render(item, v, name)).collect())
        }
        Value::Map(entries) => {
            let item = if let Schema::Map(map) = schema { &map.types } else { schema };
            Json::Object(entries.iter().map(|(k, v)| (k.clone(), render(item, v, name))).collect())
        }
        Value::Record(fields) => {
            let mut object = Map::new();
            for (index, (field, value)) in fields.iter().enumerate() {
                let inner = match schema {
                    Schema::Record(record) => record.fields.get(index).map_or(schema, |f| &f.schema),
                    _ => schema,
                };
                object.insert(name(field), render(inner, value, name));
            }
            Json::Object(object)
        }
        logical => render_logical(schema, logical),
    }
}

/// A value that has no text in its logical type is rendered as it was stored: only null may look like null.
fn render_logical(schema: &Schema, value: &Value) -> Json {
    if let Some(text) = logical_text(schema, value) {
        return Json::String(text);
    }
    match value {
        Value::Date(n) | Value::TimeMillis(n) => Json::from(*n),
        Value::TimeMicros(n)
        | Value::TimestampMillis(n)
        | Value::TimestampMicros(n)
        | Value::TimestampNanos(n)
        | Value::LocalTimestampMillis(n)
        | Value::LocalTimestampMicros(n)
        | Value::LocalTimestampNanos(n) => Json::from(*n),
        Value::Decimal(decimal) => {
            Vec::<u8>::try_from(decimal).map_or(Json::Null, |bytes| Json::String(hex::encode(bytes)))
        }
        other => Json::String(format!("{other:?}")),
    }
}

/// A value of a logical type as people write it; `None` where it has no text, as for a day outside the calendar, or a
/// decimal of more than [`LONGEST_DECIMAL`] bytes.
pub(super) fn logical_text(schema: &Schema, value: &Value) -> Option<String> {
    match value {
        Value::Date(days) => {
            let days = jiff::Span::new().try_days(*days).ok()?;
            jiff::civil::date(1970, 1, 1).checked_add(days).ok().map(|date| date.to_string())
        }
        Value::TimestampMillis(ms) => jiff::Timestamp::from_millisecond(*ms).ok().map(|at| at.to_string()),
        Value::TimestampMicros(us) => jiff::Timestamp::from_microsecond(*us).ok().map(|at| at.to_string()),
        Value::TimestampNanos(ns) => {
            jiff::Timestamp::from_nanosecond(i128::from(*ns)).ok().map(|at| at.to_string())
        }
        Value::Decimal(decimal) => {
            let scale = if let Schema::Decimal(decimal) = schema { decimal.scale } else { 0 };
            Vec::<u8>::try_from(decimal).ok().and_then(|bytes| decimal_text(&bytes, scale))
        }
        Value::Uuid(uuid) => Some(uuid.to_string()),
        Value::BigDecimal(number) => Some(number.to_string()),
        _ => None,
    }
}

/// NaN and the infinities become texts: JSON has no numbers for them.
fn render_float(number: f64) -> Json {
    let text = match number {
        n if n.is_nan() => "NaN",
        n if n > 0.0 => "Infinity",
        _ => "-Infinity",
    };
    Number::from_f64(number).map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

/// A decimal's text from its unscaled big-endian two's complement; `None` past the limits.
fn decimal_text(bytes: &[u8], scale: usize) -> Option<String> {
    if bytes.len() > LONGEST_DECIMAL || scale > MOST_DECIMALS {
        return None;
    }
    let unscaled = BigInt::from_signed_bytes_be(bytes);
    let digits = format!("{:0>width$}", unscaled.magnitude().to_string(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let sign = if unscaled.sign() == Sign::Minus { "-" } else { "" };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::binary::{put_bytes, put_long, put_string};
    use super::*;

    #[test]
    fn logical_types_are_text_that_people_read() {
        let schema = AvroSchema::parse(
            r#"{"type":"record","name":"R","fields":[
            {"name":"d","type":{"type":"int","logicalType":"date"}},
            {"name":"n","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}]}]}"#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        // 2021-07-01 is day 18809; -1.05 is -105 = 0x97.
        let mut datum = Vec::new();
        put_long(&mut datum, 18_809);
        put_long(&mut datum, 1);
        put_bytes(&mut datum, &[0x97]);
        let value = decode(&schema, &datum).unwrap_or_else(|e| panic!("{e}"));
        let json = render(schema.parsed(), &value, &|name| name.to_uppercase());
        assert_eq!(json, serde_json::json!({"D": "2021-07-01", "N": "-1.05"}));
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal_text(&[0x01], 3).as_deref(), Some("0.001"));
        assert_eq!(decimal_text(&[0xff], 0).as_deref(), Some("-1"));
        assert_eq!(decimal_text(&[0; 17], 0).as_deref(), Some("0"));
        let wide = [&[1][..], &[0; 16]].concat();
        assert_eq!(decimal_text(&wide, 2).as_deref(), Some("3402823669209384634633746074317682114.56"));
        assert_eq!(decimal_text(&[0x80; LONGEST_DECIMAL + 1], 0), None);
        assert_eq!(decimal_text(&[1], usize::MAX), None);
    }

    #[test]
    fn only_null_is_null() {
        let render = |kind: &str, put: &dyn Fn(&mut Vec<u8>)| {
            let text = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{kind}}}]}}"#);
            let schema = AvroSchema::parse(&text).unwrap();
            let mut datum = Vec::new();
            put(&mut datum);
            let value = decode(&schema, &datum).unwrap();
            super::render(schema.parsed(), &value, &str::to_owned)["a"].clone()
        };
        let long = |number: i64| move |out: &mut Vec<u8>| put_long(out, number);
        for days in [i64::from(i32::MAX), i64::from(i32::MIN), 7_304_485, 2_932_897] {
            let date = render(r#"{"type":"int","logicalType":"date"}"#, &long(days));
            assert_eq!(date, serde_json::json!(days), "no calendar has that day");
        }
        for unit in ["timestamp-millis", "timestamp-micros", "local-timestamp-millis", "time-micros"] {
            let kind = format!(r#"{{"type":"long","logicalType":"{unit}"}}"#);
            assert_eq!(render(&kind, &long(i64::MAX)), serde_json::json!(i64::MAX), "{unit}");
        }
        for (number, expected) in
            [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (-f64::INFINITY, "-Infinity")]
        {
            let double = render(r#""double""#, &|out| out.extend_from_slice(&number.to_le_bytes()));
            assert_eq!(double, serde_json::json!(expected));
        }
        let long = vec![1; LONGEST_DECIMAL + 1];
        let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":20000,"scale":2}"#;
        let decimal = render(decimal, &|out| put_bytes(out, &long));
        assert_eq!(decimal, serde_json::json!("01".repeat(long.len())));
        assert_eq!(render(r#"["null","int"]"#, &long_null), Json::Null);
    }

    fn long_null(out: &mut Vec<u8>) {
        put_long(out, 0);
    }

    /// A type, a value's bytes, and whether the type can stand twice in a schema.
    fn kinds() -> Vec<(&'static str, Vec<u8>, bool)> {
        let with = |put: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            put(&mut bytes);
            bytes
        };
        let text = with(&|out| put_string(out, "\"Ķekava\"\n\u{1}"));
        vec![
            (r#""string""#, text.clone(), true),
            (r#"["null","string"]"#, [vec![2], text.clone()].concat(), true),
            (r#"["string","null"]"#, [vec![0], text].concat(), true),
            (r#"["string","null"]"#, vec![2], true),
            (r#""int""#, with(&|out| put_long(out, i64::from(i32::MIN))), true),
            (r#"["null","long"]"#, with(&|out| [1, i64::MAX].iter().for_each(|n| put_long(out, *n))), true),
            (r#"["null","long"]"#, vec![0], true),
            (r#""boolean""#, vec![1], true),
            (r#"["null","boolean","int"]"#, vec![2, 0], true),
            (r#"{"type":"int","logicalType":"date"}"#, with(&|out| put_long(out, 18_809)), true),
            (
                r#"["null",{"type":"int","logicalType":"date"}]"#,
                with(&|out| [1, -1].iter().for_each(|n| put_long(out, *n))),
                true,
            ),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, with(&|out| put_long(out, 1)), true),
            (
                r#"{"type":"long","logicalType":"timestamp-micros"}"#,
                with(&|out| put_long(out, i64::MAX)),
                true,
            ),
            (
                r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
                with(&|out| put_bytes(out, &[0x97])),
                true,
            ),
            (r#""double""#, f64::NAN.to_le_bytes().to_vec(), true),
            (
                r#"{"type":"array","items":"string"}"#,
                with(&|out| {
                    put_long(out, 1);
                    put_string(out, "p");
                    put_long(out, 0);
                }),
                true,
            ),
            (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, vec![2], false),
            (
                r#"{"type":"record","name":"N","fields":[{"name":"n_u20_m","type":"null"}]}"#,
                Vec::new(),
                false,
            ),
            (
                r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#,
                vec![2, 0],
                false,
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_line_is_the_rendered_value(picks in proptest::collection::vec(0..19_usize, 0..12)) {
            let kinds = kinds();
            let mut fields = Vec::new();
            let mut row = Vec::new();
            let mut once = std::collections::BTreeSet::new();
            for (place, pick) in picks.into_iter().enumerate() {
                let (kind, bytes, is_repeatable) = &kinds[pick];
                if *is_repeatable || once.insert(pick) {
                    // Their order by name is another.
                    fields.push(format!(r#"{{"name":"f{}_u2D_{place}","type":{kind}}}"#, 97 - place));
                    row.extend_from_slice(bytes);
                }
            }
            let text = format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","));
            let schema = AvroSchema::parse(&text).unwrap();
            let name = |field: &str| field.replace("_u2D_", "-").replace("_u20_", " ");
            let mut line = Vec::new();
            JsonRows::of(&schema, &name).unwrap().put(&row, &mut line).unwrap();
            let value = decode(&schema, &row).unwrap();
            let expected = format!("{}\n", render(schema.parsed(), &value, &name));
            prop_assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}

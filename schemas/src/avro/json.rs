//! Datums as plain JSON for people: one object a row, logical types as text.
//!
//! Owns the rendering only; nothing is read back from it.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::{Map, Number, Value as Json};

use super::binary::DatumError;
use super::schema::AvroSchema;

/// A datum of the schema as a decoded value.
pub fn decode(schema: &AvroSchema, datum: &[u8]) -> Result<Value, DatumError> {
    schema.layout().validate(datum)?;
    let mut bytes = datum;
    apache_avro::reader::datum::GenericDatumReader::builder(schema.parsed())
        .build()
        .and_then(|reader| reader.read_value(&mut bytes))
        .map_err(|_| DatumError::Invalid { at: 0, what: "the datum is outside its logical type" })
}

/// A decoded value as plain JSON. Fields are named by `name`, given the schema's field name.
pub fn render(schema: &Schema, value: &Value, name: &dyn Fn(&str) -> String) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Long(i) => Json::from(*i),
        Value::Float(f) => Number::from_f64(f64::from(*f)).map_or(Json::Null, Json::Number),
        Value::Double(f) => Number::from_f64(*f).map_or(Json::Null, Json::Number),
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

fn render_logical(schema: &Schema, value: &Value) -> Json {
    let text = match value {
        Value::Date(days) => {
            let epoch = jiff::civil::date(1970, 1, 1);
            epoch.checked_add(jiff::Span::new().days(i64::from(*days))).map(|date| date.to_string()).ok()
        }
        Value::TimestampMillis(ms) => jiff::Timestamp::from_millisecond(*ms).map(|t| t.to_string()).ok(),
        Value::TimestampMicros(us) => jiff::Timestamp::from_microsecond(*us).map(|t| t.to_string()).ok(),
        Value::TimestampNanos(ns) => {
            jiff::Timestamp::from_nanosecond(i128::from(*ns)).map(|t| t.to_string()).ok()
        }
        Value::Decimal(decimal) => {
            let scale = if let Schema::Decimal(decimal) = schema { decimal.scale } else { 0 };
            Vec::<u8>::try_from(decimal).ok().and_then(|bytes| decimal_text(&bytes, scale))
        }
        Value::Uuid(uuid) => Some(uuid.to_string()),
        Value::BigDecimal(number) => Some(number.to_string()),
        Value::TimeMillis(n) => return Json::from(*n),
        Value::TimeMicros(n)
        | Value::LocalTimestampMillis(n)
        | Value::LocalTimestampMicros(n)
        | Value::LocalTimestampNanos(n) => return Json::from(*n),
        other => Some(format!("{other:?}")),
    };
    text.map_or(Json::Null, Json::String)
}

/// A decimal's text from its unscaled big-endian two's complement; `None` past 128 bits.
fn decimal_text(bytes: &[u8], scale: usize) -> Option<String> {
    if bytes.len() > 16 {
        return None;
    }
    let fill = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [fill; 16];
    wide.get_mut(16 - bytes.len()..)?.copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(wide);
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") })
}

#[cfg(test)]
mod tests {
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
        super::super::binary::put_long(&mut datum, 18_809);
        super::super::binary::put_long(&mut datum, 1);
        super::super::binary::put_bytes(&mut datum, &[0x97]);
        let value = decode(&schema, &datum).unwrap_or_else(|e| panic!("{e}"));
        let json = render(schema.parsed(), &value, &|name| name.to_uppercase());
        assert_eq!(json, serde_json::json!({"D": "2021-07-01", "N": "-1.05"}));
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal_text(&[0x01], 3).as_deref(), Some("0.001"));
        assert_eq!(decimal_text(&[0xff], 0).as_deref(), Some("-1"));
        assert_eq!(decimal_text(&[0; 17], 0), None);
    }
}

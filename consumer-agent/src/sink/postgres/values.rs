//! A row's values as PostgreSQL reads them from text.
//!
//! Owns the spelling of each type; the column's own type checks it.

use apache_avro::Schema;
use apache_avro::types::Value;
use jiff::SignedDuration;
use jiff::civil::{DateTime, Time};
use schemas::avro::binary::DatumError;
use schemas::avro::json;
use schemas::avro::schema::AvroSchema;
use serde_json::Value as Json;

/// The values of an image, in the order of the schema's fields.
pub(super) fn texts(derived: &AvroSchema, image: &[u8]) -> Result<Vec<Option<String>>, DatumError> {
    let outside = |what| DatumError::Invalid { at: 0, what };
    let Value::Record(fields) = json::decode(derived, image)? else { return Err(outside("it is no record")) };
    let record = derived.record().map_err(|_| outside("its schema is no record"))?.record;
    let values = record.fields.iter().zip(&fields);
    values.map(|(field, (_, value))| text(&field.schema, value)).collect()
}

fn text(schema: &Schema, value: &Value) -> Result<Option<String>, DatumError> {
    let outside = || DatumError::Invalid { at: 0, what: "the value is outside its logical type" };
    let text = match value {
        Value::Null => return Ok(None),
        Value::Union(index, inner) => {
            let Schema::Union(union) = schema else { return Err(outside()) };
            let branch = usize::try_from(*index).ok().and_then(|index| union.variants().get(index));
            let alone = union.variants().iter().filter(|v| !matches!(v, Schema::Null)).count() == 1;
            return match branch.filter(|_| alone) {
                Some(branch) => text(branch, inner),
                None if matches!(**inner, Value::Null) => Ok(None),
                None => Ok(Some(rendered(schema, value).to_string())),
            };
        }
        Value::Float(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => format!("\\x{}", hex::encode(bytes)),
        Value::TimeMillis(ms) => time(i64::from(*ms) * 1_000).ok_or_else(outside)?,
        Value::TimeMicros(us) => time(*us).ok_or_else(outside)?,
        Value::LocalTimestampMillis(ms) => local(SignedDuration::from_millis(*ms)).ok_or_else(outside)?,
        Value::LocalTimestampMicros(us) => local(SignedDuration::from_micros(*us)).ok_or_else(outside)?,
        Value::LocalTimestampNanos(ns) => local(SignedDuration::from_nanos(*ns)).ok_or_else(outside)?,
        other => match rendered(schema, other) {
            Json::Null => return Err(outside()),
            Json::String(text) => text,
            json => json.to_string(),
        },
    };
    Ok(Some(text))
}

fn rendered(schema: &Schema, value: &Value) -> Json {
    json::render(schema, value, &str::to_owned)
}

fn time(micros: i64) -> Option<String> {
    Time::midnight().checked_add(SignedDuration::from_micros(micros)).ok().map(|time| time.to_string())
}

fn local(since_epoch: SignedDuration) -> Option<String> {
    let epoch: DateTime = jiff::civil::date(1970, 1, 1).into();
    epoch.checked_add(since_epoch).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use schemas::avro::binary::{put_bytes, put_long, put_string};

    use super::*;

    #[test]
    fn every_type_is_spelt_for_its_column() {
        let derived = AvroSchema::parse(
            r#"{"type":"record","name":"R","fields":[
            {"name":"a","type":["null","string"]},{"name":"b","type":"bytes"},
            {"name":"c","type":{"type":"int","logicalType":"time-millis"}},
            {"name":"d","type":{"type":"long","logicalType":"local-timestamp-micros"}},
            {"name":"e","type":{"type":"array","items":"string"}},{"name":"f","type":["null","int"]}]}"#,
        )
        .unwrap();
        let mut image = Vec::new();
        put_long(&mut image, 1);
        put_string(&mut image, "Ķekava \"x\"");
        put_bytes(&mut image, &[0, 255]);
        put_long(&mut image, 3_723_004);
        put_long(&mut image, 1_000_001);
        put_long(&mut image, 1);
        put_string(&mut image, "p");
        put_long(&mut image, 0);
        put_long(&mut image, 0);
        let texts = texts(&derived, &image).unwrap();
        let texts: Vec<_> = texts.iter().map(|text| text.as_deref().unwrap_or("NULL")).collect();
        let at = "1970-01-01T00:00:01.000001";
        assert_eq!(texts, ["Ķekava \"x\"", "\\x00ff", "01:02:03.004", at, "[\"p\"]", "NULL"]);
    }
}

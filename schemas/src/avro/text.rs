//! A row's values as text, for databases, and for the comparison of two copies of a row.
//!
//! Owns the spelling of each type, and the canonical spelling of those that a column may return.

use apache_avro::Schema;
use apache_avro::schema::RecordField;
use apache_avro::types::Value;
use jiff::SignedDuration;
use jiff::civil::{DateTime, Time};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde_json::Value as Json;

use super::binary::DatumError;
use super::fields::{self, FieldValue};
use super::json;
use super::schema::AvroSchema;

/// Digits on one side of a decimal's point: more than a database's number holds.
const LONGEST_DECIMAL: u64 = 16_384;

/// The values of an image, in the order of the schema's fields.
pub fn texts(derived: &AvroSchema, image: &[u8]) -> Result<Vec<Option<String>>, DatumError> {
    let values = fields::of_record(derived.parsed())?.iter().zip(derived.values(image)?);
    let plain = |(field, value): (&RecordField, FieldValue<'_>)| match value {
        FieldValue::Null => Ok(None),
        FieldValue::Text(text) => Ok(Some(text.to_owned())),
        FieldValue::Whole(number) => Ok(Some(number.to_string())),
        FieldValue::Boolean(is_true) => Ok(Some(is_true.to_string())),
        FieldValue::Other(value) => text(&field.schema, &value),
    };
    values.map(plain).collect()
}

/// The canonical spelling of a field's value, from any that a column of its type may return. A text that is no value of
/// the type stays as it is.
pub fn spelt(schema: &Schema, text: String) -> String {
    let again = match schema {
        Schema::Union(union) => {
            let mut others = union.variants().iter().filter(|variant| !matches!(variant, Schema::Null));
            return match (others.next(), others.next()) {
                (Some(only), None) => spelt(only, text),
                _ => sorted(&text).unwrap_or(text),
            };
        }
        Schema::Float => text.parse().ok().map(|number: f32| number.to_string()),
        Schema::Double => text.parse().ok().map(|number: f64| number.to_string()),
        Schema::BigDecimal => plain(&text),
        Schema::TimeMillis | Schema::TimeMicros => text.parse().ok().map(|time: Time| time.to_string()),
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => micros(&text),
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            local_micros(&text)
        }
        Schema::Record(_) | Schema::Array(_) | Schema::Map(_) | Schema::Ref { .. } | Schema::Duration(_) => {
            sorted(&text)
        }
        _ => None,
    };
    again.unwrap_or(text)
}

/// Columns of databases hold microseconds; a half is rounded to the even number, as in PostgreSQL.
fn micros(text: &str) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    let round = TimestampRound::new().smallest(Unit::Microsecond).mode(RoundMode::HalfEven);
    at.round(round).ok().map(|at| at.to_string())
}

fn local_micros(text: &str) -> Option<String> {
    let at: DateTime = text.parse().ok()?;
    let round = jiff::civil::DateTimeRound::new().smallest(Unit::Microsecond).mode(RoundMode::HalfEven);
    at.round(round).ok().map(|at| at.to_string())
}

fn sorted(text: &str) -> Option<String> {
    let mut json: Json = serde_json::from_str(text).ok()?;
    json.sort_all_objects();
    Some(json.to_string())
}

/// A decimal without exponent and without zeros at its end.
fn plain(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let point = i64::try_from(whole.len()).ok()? + exponent.parse::<i64>().ok()?;
    let digits = [whole, part].concat();
    if !digits.bytes().all(|b| b.is_ascii_digit()) || point.unsigned_abs() > LONGEST_DECIMAL {
        return None;
    }
    let digits = match usize::try_from(point) {
        Ok(point) => format!("{digits:0<point$}"),
        Err(_) => digits,
    };
    let (whole, part) = match usize::try_from(point) {
        Ok(point) => digits.split_at(point),
        Err(_) => ("", digits.as_str()),
    };
    let missing = usize::try_from(-point).unwrap_or(0);
    let part = format!("{:0<missing$}{part}", "");
    let whole = whole.trim_start_matches('0');
    let part = part.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(match (whole, part) {
        ("0", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        (whole, part) => format!("{sign}{whole}.{part}"),
    })
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
        Value::Date(_)
        | Value::TimestampMillis(_)
        | Value::TimestampMicros(_)
        | Value::TimestampNanos(_)
        | Value::Decimal(_)
        | Value::Uuid(_)
        | Value::BigDecimal(_) => json::logical_text(schema, value).ok_or_else(outside)?,
        other => match rendered(schema, other) {
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
    use super::super::binary::{put_bytes, put_long, put_string};
    use super::*;

    #[test]
    fn what_columns_give_back_is_spelt_as_it_was_given() {
        let of = |kind: &str| {
            let text = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{kind}}}]}}"#);
            AvroSchema::parse(&text).unwrap().record().unwrap().record.fields[0].schema.clone()
        };
        let logical = |name: &str| of(&format!(r#"{{"type":"long","logicalType":"{name}"}}"#));
        let at = logical("timestamp-nanos");
        assert_eq!(spelt(&at, "2026-01-01 00:00:00.5+00".into()), "2026-01-01T00:00:00.5Z");
        assert_eq!(spelt(&at, "2026-01-01T00:00:00.000000500Z".into()), "2026-01-01T00:00:00Z");
        assert_eq!(spelt(&at, "2026-01-01T00:00:00.000001500Z".into()), "2026-01-01T00:00:00.000002Z");
        let local = logical("local-timestamp-millis");
        assert_eq!(spelt(&local, "2026-01-01 00:00:00".into()), "2026-01-01T00:00:00");
        assert_eq!(spelt(&of(r#""double""#), "1e+21".into()), 1e21.to_string());
        assert_eq!(spelt(&of(r#""float""#), "Infinity".into()), f32::INFINITY.to_string());
        let json = of(r#"["null",{"type":"map","values":"int"}]"#);
        assert_eq!(spelt(&json, r#"{"b": 1, "aa": 2}"#.into()), r#"{"aa":2,"b":1}"#);
        let decimal = of(r#"{"type":"bytes","logicalType":"big-decimal"}"#);
        for (given, one) in
            [("1E+3", "1000"), ("-0012.500", "-12.5"), ("1.5e-3", "0.0015"), ("0.00", "0"), ("x", "x")]
        {
            assert_eq!(spelt(&decimal, given.into()), one);
        }
        assert_eq!(spelt(&of(r#""string""#), " 1e3 ".into()), " 1e3 ");
    }

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

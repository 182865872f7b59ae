//! From a row's cells to a datum of the subject's schema.
//!
//! Owns the mapping of columns to fields (by name, by alias) and the reading of each type from text. Values stay
//! as in the file; only the key is normalised, elsewhere.

use apache_avro::Schema;
use schemas::avro::binary::{put_bytes, put_long, put_string};
use schemas::avro::names::column_name;
use schemas::avro::schema::AvroSchema;

/// Why a file's header does not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A field has no column and no default.
    #[error("no column for field {field:?} (looked for {looked}); the file has {found}")]
    Missing {
        /// The field.
        field: String,
        /// The names that would do.
        looked: String,
        /// The file's columns.
        found: String,
    },
    /// Two columns for one field.
    #[error("columns {first:?} and {second:?} both stand for field {field:?}")]
    Twice {
        /// The field.
        field: String,
        /// One column.
        first: String,
        /// The other.
        second: String,
    },
    /// A field's type cannot be read from text.
    #[error("field {0:?} has a type that cannot be read from a cell; use a simple type or a nullable one")]
    Unsupported(String),
}

/// A cell that is not a value of its field's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column:?}: {problem}")]
pub struct CellError {
    /// The column, as in the file.
    pub column: String,
    /// What is wrong, without the value.
    pub problem: String,
}

#[derive(Debug, Clone)]
enum Kind {
    Text,
    Int,
    Long,
    Float,
    Double,
    Boolean,
    Enum(Vec<String>),
    Date,
    TimestampMillis,
    TimestampMicros,
    Decimal { scale: usize },
    Nullable { null: i64, inner: Box<Kind> },
}

#[derive(Debug, Clone)]
enum Origin {
    Column(usize),
    /// The field's default, encoded.
    Default(Vec<u8>),
}

/// Encodes the rows of one file.
#[derive(Debug, Clone)]
pub struct RowEncoder {
    fields: Vec<(String, Kind, Origin)>,
    ignored: Vec<String>,
}

impl RowEncoder {
    /// Fits a header to a schema: each field takes the column of its own name, or of an alias.
    pub fn new(schema: &AvroSchema, header: &[String]) -> Result<Self, HeaderError> {
        let unsupported = || HeaderError::Unsupported("the schema".to_owned());
        let record = schema.record().map_err(|_| unsupported())?.record;
        let mut used = Vec::new();
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let kind = kind(&field.schema).ok_or_else(|| HeaderError::Unsupported(field.name.clone()))?;
            let names: Vec<String> = std::iter::once(&field.name)
                .chain(&field.aliases)
                .map(|name| column_name(name).unwrap_or_else(|| name.clone()))
                .collect();
            let mut columns = header.iter().enumerate().filter(|(_, column)| names.contains(column));
            let origin = match (columns.next(), columns.next()) {
                (Some((_, first)), Some((_, second))) => {
                    return Err(HeaderError::Twice {
                        field: field.name.clone(),
                        first: first.clone(),
                        second: second.clone(),
                    });
                }
                (Some((index, _)), None) => {
                    used.push(index);
                    Origin::Column(index)
                }
                (None, _) => {
                    match field.default.as_ref().and_then(|default| encode_default(&kind, default)) {
                        Some(bytes) => Origin::Default(bytes),
                        None => {
                            return Err(HeaderError::Missing {
                                field: field.name.clone(),
                                looked: names.join(", "),
                                found: header.join(", "),
                            });
                        }
                    }
                }
            };
            let column = match &origin {
                Origin::Column(index) => header.get(*index).cloned(),
                Origin::Default(_) => None,
            };
            fields.push((column.unwrap_or_else(|| field.name.clone()), kind, origin));
        }
        let unused = header.iter().enumerate().filter(|(index, _)| !used.contains(index));
        Ok(Self { fields, ignored: unused.map(|(_, column)| column.clone()).collect() })
    }

    /// Columns that stand for no field: they are not read.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// The datum of a row.
    pub fn encode(&self, cells: &[String]) -> Result<Vec<u8>, CellError> {
        let mut out = Vec::with_capacity(cells.iter().map(|cell| cell.len() + 2).sum());
        for (column, kind, origin) in &self.fields {
            match origin {
                Origin::Default(bytes) => out.extend_from_slice(bytes),
                Origin::Column(index) => {
                    let cell = cells.get(*index).map(String::as_str).unwrap_or_default();
                    let wrong = |problem: String| CellError { column: column.clone(), problem };
                    encode_cell(kind, cell, &mut out).map_err(wrong)?;
                }
            }
        }
        Ok(out)
    }
}

fn kind(schema: &Schema) -> Option<Kind> {
    Some(match schema {
        Schema::String => Kind::Text,
        Schema::Int => Kind::Int,
        Schema::Long => Kind::Long,
        Schema::Float => Kind::Float,
        Schema::Double => Kind::Double,
        Schema::Boolean => Kind::Boolean,
        Schema::Enum(symbols) => Kind::Enum(symbols.symbols.clone()),
        Schema::Date => Kind::Date,
        Schema::TimestampMillis => Kind::TimestampMillis,
        Schema::TimestampMicros => Kind::TimestampMicros,
        Schema::Decimal(decimal)
            if matches!(decimal.inner, apache_avro::schema::InnerDecimalSchema::Bytes) =>
        {
            Kind::Decimal { scale: decimal.scale }
        }
        Schema::Union(union) => {
            let [a, b] = union.variants() else { return None };
            match (a, b) {
                (Schema::Null, inner) => Kind::Nullable { null: 0, inner: Box::new(kind(inner)?) },
                (inner, Schema::Null) => Kind::Nullable { null: 1, inner: Box::new(kind(inner)?) },
                _ => return None,
            }
        }
        _ => return None,
    })
}

/// A default stands in JSON; a nullable's default is of its first branch.
fn encode_default(kind: &Kind, default: &serde_json::Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match (kind, default) {
        (Kind::Nullable { null, .. }, serde_json::Value::Null) => put_long(&mut out, *null),
        (Kind::Nullable { null: 1, inner }, value) => {
            put_long(&mut out, 0);
            out.extend(encode_default(inner, value)?);
        }
        (kind, serde_json::Value::String(text)) => encode_cell(kind, text, &mut out).ok()?,
        (kind, value) => encode_cell(kind, &value.to_string(), &mut out).ok()?,
    }
    Some(out)
}

fn encode_cell(kind: &Kind, cell: &str, out: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        Kind::Text if cell.contains('\u{fffd}') => {
            return Err("it holds bytes that are not of the file's encoding".to_owned());
        }
        Kind::Text => put_string(out, cell),
        Kind::Int => put_long(out, i64::from(number::<i32>(cell, "a whole number of 32 bits")?)),
        Kind::Long => put_long(out, number(cell, "a whole number of 64 bits")?),
        Kind::Float => {
            let value = number::<f32>(cell, "a number")?;
            held(cell, value.is_infinite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Kind::Double => {
            let value = number::<f64>(cell, "a number")?;
            held(cell, value.is_infinite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Kind::Boolean => out.push(match cell {
            "true" | "1" => 1,
            "false" | "0" => 0,
            _ => return Err("it is neither true, false, 1 nor 0".to_owned()),
        }),
        Kind::Enum(symbols) => {
            let index = symbols.iter().position(|symbol| symbol == cell);
            let index = index.ok_or_else(|| format!("it is none of {}", symbols.join(", ")))?;
            put_long(out, i64::try_from(index).unwrap_or(i64::MAX));
        }
        Kind::Date => {
            let date: jiff::civil::Date = number(cell, "a date such as 2026-01-31")?;
            let span = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1)));
            let days = span.map_err(|_| "it is outside the calendar".to_owned())?.get_days();
            put_long(out, i64::from(days));
        }
        Kind::TimestampMillis => {
            put_long(out, instant(cell)?.as_millisecond());
        }
        Kind::TimestampMicros => {
            put_long(out, instant(cell)?.as_microsecond());
        }
        Kind::Decimal { scale } => put_bytes(out, &decimal(cell, *scale)?),
        Kind::Nullable { null, inner } => {
            if cell.is_empty() {
                put_long(out, *null);
            } else {
                put_long(out, 1 - *null);
                encode_cell(inner, cell, out)?;
            }
        }
    }
    Ok(())
}

fn number<T: std::str::FromStr>(cell: &str, what: &str) -> Result<T, String> {
    cell.trim().parse().map_err(|_| format!("it is not {what}"))
}

/// A number whose digits are beyond its type is read as infinite.
fn held(cell: &str, is_infinite: bool) -> Result<(), String> {
    match is_infinite && cell.contains(|c: char| c.is_ascii_digit()) {
        true => Err("it is beyond what its type can hold".to_owned()),
        false => Ok(()),
    }
}

fn instant(cell: &str) -> Result<jiff::Timestamp, String> {
    let text = cell.trim();
    text.parse().map_err(|_| {
        let pieces = jiff::fmt::temporal::Pieces::parse(text);
        let has_offset = pieces.is_ok_and(|pieces| pieces.to_numeric_offset().is_some());
        match has_offset {
            true => "it is beyond 9999-12-30T22:00:00Z, the last time that can be held: use null for no end",
            false => "it is not a time with its offset",
        }
        .to_owned()
    })
}

/// The shortest big-endian two's complement of an unscaled decimal.
fn decimal(cell: &str, scale: usize) -> Result<Vec<u8>, String> {
    let text = cell.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > scale {
        return Err(format!("it has more than {scale} digits after the point"));
    }
    let digits = format!("{whole}{part:0<scale$}");
    let unscaled: i128 = number(&digits, "a decimal number")?;
    let bytes = unscaled.to_be_bytes();
    let fill = if unscaled < 0 { 0xff } else { 0 };
    let redundant = |pair: &[u8]| matches!(pair, [a, b] if *a == fill && (*b & 0x80) == (fill & 0x80));
    let skip = bytes.windows(2).take_while(|pair| redundant(pair)).count();
    Ok(bytes.get(skip..).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::avro::json;

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
        {"name":"code","type":"string","aliases":["old_u20_code"]},
        {"name":"n","type":["null","int"]},
        {"name":"d","type":{"type":"int","logicalType":"date"}},
        {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
        {"name":"added","type":"string","default":""}]}"#;

    fn encoder(header: &[&str]) -> Result<RowEncoder, HeaderError> {
        let schema = AvroSchema::parse(SCHEMA).unwrap();
        RowEncoder::new(&schema, &header.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())
    }

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|c| (*c).to_owned()).collect()
    }

    #[test]
    fn what_no_value_of_the_type_can_hold_is_refused() {
        let said = |kind: &Kind, cell: &str| encode_cell(kind, cell, &mut Vec::new()).unwrap_err();
        for (kind, cell) in [(Kind::Float, "1e300"), (Kind::Double, "-1e999")] {
            assert!(said(&kind, cell).contains("beyond"), "{cell}");
        }
        assert_eq!(encode_cell(&Kind::Float, "inf", &mut Vec::new()), Ok(()));
        for kind in [Kind::TimestampMillis, Kind::TimestampMicros] {
            assert!(said(&kind, "9999-12-31T23:59:59Z").contains("use null for no end"));
            assert!(said(&kind, "9999-12-31").contains("not a time with its offset"));
        }
    }

    #[test]
    fn columns_are_found_by_name_and_alias_and_defaults_fill_in() {
        let encoder = encoder(&["amount", "old code", "junk", "n", "d"]).unwrap();
        assert_eq!(encoder.ignored(), ["junk"]);
        let datum = encoder.encode(&row(&["-12.5", "a", "x", "", "2021-07-01"])).unwrap();
        let schema = AvroSchema::parse(SCHEMA).unwrap();
        let value = json::decode(&schema, &datum).unwrap();
        let json = json::render(schema.parsed(), &value, &str::to_owned);
        assert_eq!(
            json,
            serde_json::json!({"code": "a", "n": null, "d": "2021-07-01", "amount": "-12.50", "added": ""})
        );
    }

    #[test]
    fn a_header_that_does_not_fit_is_named() {
        assert!(matches!(encoder(&["n", "d", "amount"]), Err(HeaderError::Missing { .. })));
        assert!(matches!(encoder(&["code", "old code", "n", "d", "amount"]), Err(HeaderError::Twice { .. })));
    }

    #[test]
    fn a_cell_that_does_not_fit_names_its_column_and_not_its_value() {
        let encoder = encoder(&["code", "n", "d", "amount"]).unwrap();
        for (cells, column) in [
            (["a", "1x", "2021-07-01", "1"], "n"),
            (["a", "1", "01.07.2021", "1"], "d"),
            (["a", "1", "2021-07-01", "1.005"], "amount"),
            (["a\u{fffd}", "1", "2021-07-01", "1"], "code"),
        ] {
            let error = encoder.encode(&row(&cells)).unwrap_err();
            assert_eq!(error.column, column);
            assert!(!error.to_string().contains("01.07.2021"));
        }
    }

    #[test]
    fn decimals_are_as_short_as_they_can_be() {
        assert_eq!(decimal("1.28", 2), Ok(vec![0, 128]));
        assert_eq!(decimal("-1.28", 2), Ok(vec![128]));
        assert_eq!(decimal("0", 2), Ok(vec![0]));
        assert_eq!(decimal("-0.01", 2), Ok(vec![255]));
    }
}

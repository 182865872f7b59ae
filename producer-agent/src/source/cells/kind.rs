//! Types that a cell can be read into, and how.
//!
//! Owns which cell is a value of which type. A cell gives one value, or an error that does not show the cell.

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, UuidSchema};
use schemas::avro::binary::{put_bytes, put_long, put_string};
use serde_json::Value as Json;

use super::Cell;
use crate::source::format::TableFormat;
use crate::source::values::calendar::{self, DateFormat, Precision};
use crate::source::values::numeral::{self, Misfit, NumberStyle, Numeral, Rounding};

/// How a file writes its values.
#[derive(Debug, Clone)]
pub(super) struct Styles {
    null_marker: Vec<String>,
    date_format: Option<DateFormat>,
    numbers: NumberStyle,
    rounding: Rounding,
}

impl Styles {
    pub(super) fn of(format: &TableFormat) -> Self {
        Self {
            null_marker: format.null_marker.clone(),
            date_format: format.date_format.clone(),
            numbers: format.numbers(),
            rounding: format.rounding,
        }
    }
}

/// A type of a field.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Text,
    Uuid,
    Int,
    Long,
    Float,
    Double,
    Boolean,
    Enum(Vec<String>),
    Date,
    Time(Precision),
    Instant(Precision),
    Local(Precision),
    Decimal { precision: usize, scale: usize },
    Nullable { null: i64, inner: Box<Kind> },
}

/// A cell's text to read, and how numbers in it are written.
struct Written<'c> {
    text: &'c str,
    is_number: bool,
    numbers: NumberStyle,
}

impl Kind {
    pub(super) fn of(schema: &Schema) -> Option<Self> {
        Some(match schema {
            Schema::String => Self::Text,
            Schema::Uuid(UuidSchema::String) => Self::Uuid,
            Schema::Int => Self::Int,
            Schema::Long => Self::Long,
            Schema::Float => Self::Float,
            Schema::Double => Self::Double,
            Schema::Boolean => Self::Boolean,
            Schema::Enum(symbols) => Self::Enum(symbols.symbols.clone()),
            Schema::Date => Self::Date,
            Schema::TimeMillis => Self::Time(Precision::Millis),
            Schema::TimeMicros => Self::Time(Precision::Micros),
            Schema::TimestampMillis => Self::Instant(Precision::Millis),
            Schema::TimestampMicros => Self::Instant(Precision::Micros),
            Schema::TimestampNanos => Self::Instant(Precision::Nanos),
            Schema::LocalTimestampMillis => Self::Local(Precision::Millis),
            Schema::LocalTimestampMicros => Self::Local(Precision::Micros),
            Schema::LocalTimestampNanos => Self::Local(Precision::Nanos),
            Schema::Decimal(decimal) if matches!(decimal.inner, InnerDecimalSchema::Bytes) => {
                Self::Decimal { precision: decimal.precision, scale: decimal.scale }
            }
            Schema::Union(union) => {
                let [a, b] = union.variants() else { return None };
                match (a, b) {
                    (Schema::Null, inner) => Self::Nullable { null: 0, inner: Box::new(Self::of(inner)?) },
                    (inner, Schema::Null) => Self::Nullable { null: 1, inner: Box::new(Self::of(inner)?) },
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// Encodes null; `None` where the type has no null.
    pub(super) fn put_null(&self, out: &mut Vec<u8>) -> Option<()> {
        let Self::Nullable { null, .. } = self else { return None };
        put_long(out, *null);
        Some(())
    }

    /// Reads a cell as a value of this type.
    pub(super) fn put(&self, cell: Cell<&str>, styles: &Styles, out: &mut Vec<u8>) -> Result<(), String> {
        let null = || "it is null, and its field may not be null".to_owned();
        let plain = NumberStyle::PLAIN;
        let written = match cell {
            Cell::Null => return self.put_null(out).ok_or_else(null),
            Cell::Plain(text)
                if styles.null_marker.iter().any(|marker| marker == text)
                    || (text.is_empty() && matches!(self, Self::Nullable { .. })) =>
            {
                return self.put_null(out).ok_or_else(null);
            }
            Cell::Undecodable(looks_like) => {
                let hint = looks_like.map(|name| format!("; it looks like {name}: encoding = {name:?}"));
                let problem = "it holds bytes that are not of the file's encoding";
                return Err(format!("{problem}{}", hint.unwrap_or_default()));
            }
            Cell::BadEscape => return Err("it holds an escape that is no character".to_owned()),
            Cell::Nested => return Err("it is nested; only plain values are read".to_owned()),
            Cell::Boolean(value) => {
                let text = if value { "true" } else { "false" };
                Written { text, is_number: false, numbers: plain }
            }
            Cell::Plain(text) => Written { text, is_number: false, numbers: styles.numbers },
            Cell::Text(text) => Written { text, is_number: false, numbers: plain },
            Cell::Number(text) => Written { text, is_number: true, numbers: plain },
        };
        match self {
            Self::Nullable { null, inner } => {
                put_long(out, 1 - *null);
                inner.put_written(&written, styles, out)
            }
            kind => kind.put_written(&written, styles, out),
        }
    }

    fn put_written(&self, written: &Written<'_>, styles: &Styles, out: &mut Vec<u8>) -> Result<(), String> {
        let rounding = styles.rounding;
        // Blanks around a text are part of it; around any other value they mean nothing.
        let text =
            if matches!(self, Self::Text | Self::Enum(_)) { written.text } else { written.text.trim() };
        if text.is_empty() && !matches!(self, Self::Text | Self::Enum(_)) {
            return Err("it is empty, and its field may not be".to_owned());
        }
        match self {
            Self::Text if memchr::memchr(0, text.as_bytes()).is_some() => {
                return Err("it holds a zero byte, which no database takes in a text".to_owned());
            }
            Self::Text => put_string(out, text),
            // A UUID in capital or small letters is the same text.
            Self::Uuid => put_string(out, &uuid(text)?.to_ascii_lowercase()),
            Self::Int => {
                let problem = "it is not a whole number of 32 bits";
                put_long(
                    out,
                    i64::from(i32::try_from(whole(written, text, rounding, problem)?).map_err(|_| problem)?),
                );
            }
            Self::Long => {
                let problem = "it is not a whole number of 64 bits";
                put_long(out, i64::try_from(whole(written, text, rounding, problem)?).map_err(|_| problem)?);
            }
            Self::Float => {
                let (plain, numeral) = float(written, text)?;
                let value: f32 = plain.parse().map_err(|_| "it is not a number")?;
                held(value.is_infinite(), value == 0.0, numeral.is_held_by(value), &numeral, rounding)?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::Double => {
                let (plain, numeral) = float(written, text)?;
                let value: f64 = plain.parse().map_err(|_| "it is not a number")?;
                held(value.is_infinite(), value == 0.0, numeral.is_held_by(value), &numeral, rounding)?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::Boolean => out.push(match text {
                "true" | "1" => 1,
                "false" | "0" => 0,
                _ => return Err("it is neither true, false, 1 nor 0".to_owned()),
            }),
            Self::Enum(symbols) => {
                let index = symbols.iter().position(|symbol| symbol == text);
                let index = index.ok_or_else(|| format!("it is none of {}", symbols.join(", ")))?;
                put_long(out, i64::try_from(index).unwrap_or(i64::MAX));
            }
            Self::Date => put_long(out, calendar::days(text, styles.date_format.as_ref())?),
            Self::Time(precision) => put_long(out, calendar::time_of_day(text, *precision, rounding)?),
            Self::Instant(precision) => put_long(out, calendar::instant(text, *precision, rounding)?),
            Self::Local(precision) => put_long(out, calendar::local(text, *precision, rounding)?),
            Self::Decimal { precision, scale } => {
                let unscaled = decimal(written, text, *precision, *scale, rounding)?.to_be_bytes();
                put_bytes(out, shortest(&unscaled));
            }
            // No schema has a nullable type in a nullable one.
            Self::Nullable { .. } => return Err("it has no value".to_owned()),
        }
        Ok(())
    }

    /// Encodes a default, as the Avro specification writes it in JSON; a nullable type's is of its first branch.
    pub(super) fn default(&self, default: &Json) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match (self, default) {
            (Self::Nullable { null: 0, .. }, Json::Null) => put_long(&mut out, 0),
            (Self::Nullable { null: 1, inner }, value) => {
                put_long(&mut out, 0);
                out.extend(inner.default(value)?);
            }
            (Self::Text | Self::Uuid, Json::String(text)) => put_string(&mut out, text),
            (Self::Enum(symbols), Json::String(text)) => {
                let index = symbols.iter().position(|symbol| symbol == text)?;
                put_long(&mut out, i64::try_from(index).ok()?);
            }
            (Self::Boolean, Json::Bool(value)) => out.push(u8::from(*value)),
            (Self::Int | Self::Date | Self::Time(Precision::Millis), Json::Number(number)) => {
                put_long(&mut out, i64::from(i32::try_from(number.as_i64()?).ok()?));
            }
            (Self::Long | Self::Time(_) | Self::Instant(_) | Self::Local(_), Json::Number(number)) => {
                put_long(&mut out, number.as_i64()?);
            }
            (Self::Float, Json::Number(number)) => {
                let value: f32 = number.to_string().parse().ok()?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            (Self::Double, Json::Number(number)) => out.extend_from_slice(&number.as_f64()?.to_le_bytes()),
            // A default writes each byte as the character with its number.
            (Self::Decimal { .. }, Json::String(text)) => {
                let bytes =
                    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>()?;
                put_bytes(&mut out, Some(&bytes).filter(|bytes| !bytes.is_empty())?);
            }
            _ => return None,
        }
        Some(out)
    }
}

/// A whole number. `5.0` and `5e0` are five in JSON; text refuses `5e0`, and `5.0` unless it may be rounded.
fn whole(written: &Written<'_>, text: &str, rounding: Rounding, problem: &str) -> Result<i128, String> {
    let is_whole =
        written.is_number || !text.contains(written.numbers.decimal) || rounding != Rounding::Refuse;
    if let Some(number) = numeral::quick(text, written.numbers, 0).filter(|_| is_whole) {
        return Ok(number);
    }
    let numeral = Numeral::parse(text, written.numbers, written.is_number).filter(|_| is_whole);
    let scaled = numeral.ok_or(problem)?.scaled(0, rounding);
    scaled.map_err(|_| problem.to_owned())
}

fn decimal(
    written: &Written<'_>,
    text: &str,
    precision: usize,
    scale: usize,
    rounding: Rounding,
) -> Result<i128, String> {
    let places = u32::try_from(scale).unwrap_or(u32::MAX);
    let unscaled = match numeral::quick(text, written.numbers, places) {
        Some(number) => number,
        None => {
            let numeral = Numeral::parse(text, written.numbers, written.is_number);
            let numeral = numeral.ok_or_else(|| not_a_number(text, written.numbers))?;
            numeral.scaled(places, rounding).map_err(|misfit| match misfit {
                Misfit::TooFine => format!("it has more than {scale} digits after the point"),
                Misfit::TooLarge => format!("it has more than {precision} digits"),
            })?
        }
    };
    let is_held = u32::try_from(precision).ok().and_then(|digits| 10_u128.checked_pow(digits));
    if is_held.is_some_and(|limit| unscaled.unsigned_abs() >= limit) {
        return Err(format!("it has more than {precision} digits, {scale} of them after the point"));
    }
    Ok(unscaled)
}

/// The problem, with a hint if another setting could read the text.
fn not_a_number(text: &str, numbers: NumberStyle) -> String {
    let comma = NumberStyle { decimal: ',', group: None };
    let hint = match Numeral::parse(text, comma, false) {
        Some(_) if numbers.decimal != ',' => "; decimal_separator = \",\" where it is written with a comma",
        _ if matches!(text, "-" | "–" | "\\N" | "NULL" | "null" | "NA" | "..." | "…") => {
            "; null_marker says which text stands for null"
        }
        _ => "",
    };
    format!("it is not a decimal number{hint}")
}

/// The shortest big-endian two's complement.
fn shortest(bytes: &[u8; 16]) -> &[u8] {
    let fill = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
    let redundant = |pair: &[u8]| matches!(pair, [a, b] if *a == fill && (*b & 0x80) == (fill & 0x80));
    let skip = bytes.windows(2).take_while(|pair| redundant(pair)).count();
    bytes.get(skip..).unwrap_or_default()
}

fn float(written: &Written<'_>, text: &str) -> Result<(String, Numeral), String> {
    let numeral = Numeral::parse(text, written.numbers, true).ok_or("it is not a number")?;
    Ok((numeral.plain(), numeral))
}

/// Refuses a number that is beyond its type's range, or has more digits than it holds.
fn held(
    is_infinite: bool,
    is_zero: bool,
    is_held: bool,
    numeral: &Numeral,
    rounding: Rounding,
) -> Result<(), String> {
    if is_infinite || (is_zero && !numeral.is_zero()) {
        return Err("it is beyond what its type can hold".to_owned());
    }
    match is_held || rounding != Rounding::Refuse {
        true => Ok(()),
        false => {
            Err("it has more digits than its type can hold: make the field a decimal or a string".to_owned())
        }
    }
}

/// Checks for hexadecimal digits in groups of 8, 4, 4, 4 and 12; gives them as written.
fn uuid(text: &str) -> Result<&str, String> {
    let is_one = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_one { Ok(text) } else { Err("it is not a UUID".to_owned()) }
}

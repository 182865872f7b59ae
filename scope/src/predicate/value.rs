//! Single values in a datum's bytes: where a field is, its value, and how values compare.
//!
//! Owns the reading. It allocates only for UUIDs, whose texts it makes canonical.

use std::borrow::Cow;
use std::cmp::Ordering;

use apache_avro::schema::UuidSchema;
use apache_avro::{Schema, Uuid};
use schemas::avro::access::Access;
use schemas::avro::binary::{Cursor, DatumError};
use schemas::avro::located::Located;
use schemas::avro::schema::AvroSchema;

use super::expression::{FieldPath, Literal, TotalFloat};

/// Where a value is, and how it is read. Without `access` the value is null.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    access: Option<Access>,
    read: Read,
}

#[derive(Debug, Clone, PartialEq)]
enum Read {
    Bool,
    Whole,
    Float,
    Double,
    Text,
    UuidText,
    Symbol(Vec<String>),
    Date,
    /// The nanoseconds of one unit.
    Instant(i128),
    /// A type that is not compared.
    Other,
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found<'a> {
    Bool(bool),
    Whole(i64),
    Float(TotalFloat),
    Text(Cow<'a, str>),
    Date(i32),
    Instant(i128),
}

impl Field {
    pub(super) fn of(path: &FieldPath, schema: &AvroSchema) -> Self {
        Self { access: Access::new(schema, &path.indexes), read: Read::of(leaf(schema, path)) }
    }

    /// Its value; `None` where that is null, or of a type that is not compared.
    pub(crate) fn read<'a>(&'a self, datum: Located<'a>) -> Result<Option<Found<'a>>, DatumError> {
        let Some(access) = &self.access else { return Ok(None) };
        let Some(mut value) = access.find(datum)? else { return Ok(None) };
        self.read.value(&mut value)
    }
}

/// The type at the end of a path.
pub(super) fn leaf<'s>(schema: &'s AvroSchema, path: &FieldPath) -> Option<&'s Schema> {
    let mut inner = Some(schema.parsed());
    for index in &path.indexes {
        let Some(Schema::Record(record)) = inner.map(beside_null) else { return None };
        inner = record.fields.get(*index).map(|field| &field.schema);
    }
    inner.map(beside_null)
}

/// The only branch other than null of a nullable union; any other schema as it is.
pub(super) fn beside_null(schema: &Schema) -> &Schema {
    let Schema::Union(union) = schema else { return schema };
    let mut others = union.variants().iter().filter(|branch| **branch != Schema::Null);
    match (others.next(), others.next()) {
        (Some(only), None) => only,
        _ => schema,
    }
}

impl Read {
    fn of(schema: Option<&Schema>) -> Self {
        match schema {
            Some(Schema::Boolean) => Self::Bool,
            Some(Schema::Int | Schema::Long) => Self::Whole,
            Some(Schema::Float) => Self::Float,
            Some(Schema::Double) => Self::Double,
            Some(Schema::String) => Self::Text,
            Some(Schema::Uuid(UuidSchema::String)) => Self::UuidText,
            Some(Schema::Enum(symbols)) => Self::Symbol(symbols.symbols.clone()),
            Some(Schema::Date) => Self::Date,
            Some(Schema::TimestampMillis) => Self::Instant(1_000_000),
            Some(Schema::TimestampMicros) => Self::Instant(1_000),
            Some(Schema::TimestampNanos) => Self::Instant(1),
            _ => Self::Other,
        }
    }

    fn value<'a>(&'a self, value: &mut Cursor<'a>) -> Result<Option<Found<'a>>, DatumError> {
        let at = value.at();
        let invalid = |what| DatumError::Invalid { at, what };
        Ok(Some(match self {
            Self::Bool => Found::Bool(value.byte("boolean")? != 0),
            Self::Whole => Found::Whole(value.long()?),
            Self::Float => {
                let bytes =
                    value.take(4, "float")?.try_into().map_err(|_| invalid("a float has not 4 bytes"))?;
                Found::Float(TotalFloat(f64::from(f32::from_le_bytes(bytes))))
            }
            Self::Double => {
                let bytes =
                    value.take(8, "double")?.try_into().map_err(|_| invalid("a double has not 8 bytes"))?;
                Found::Float(TotalFloat(f64::from_le_bytes(bytes)))
            }
            Self::Text => Found::Text(Cow::Borrowed(value.string()?)),
            Self::UuidText => {
                let text = value.string()?;
                let uuid = Uuid::parse_str(text).map_err(|_| invalid("a text is no UUID"))?.to_string();
                Found::Text(Cow::Owned(uuid))
            }
            Self::Symbol(symbols) => {
                let index = usize::try_from(value.long()?).ok();
                let symbol = index.and_then(|index| symbols.get(index));
                Found::Text(Cow::Borrowed(symbol.ok_or(invalid("an enum has no such symbol"))?))
            }
            Self::Date => Found::Date(value.int()?),
            Self::Instant(nanos) => Found::Instant(i128::from(value.long()?) * nanos),
            Self::Other => return Ok(None),
        }))
    }
}

/// A value as the key of an index. Equal values of one field have equal keys, and keys have the order of their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Text(String),
    Number(i128),
}

impl Key {
    pub(super) fn of(literal: &Literal) -> Self {
        match literal {
            Literal::Bool(flag) => Self::Number(i128::from(*flag)),
            Literal::Integer(number) => Self::Number(i128::from(*number)),
            Literal::Float(float) => Self::Number(in_order(*float)),
            Literal::Text(text) => Self::Text(text.clone()),
            Literal::Date(days) => Self::Number(i128::from(*days)),
            Literal::Instant(nanos) => Self::Number(*nanos),
        }
    }
}

/// A float as a number of the same order: NaN is the greatest, and both zeros are one.
fn in_order(TotalFloat(float): TotalFloat) -> i128 {
    if float.is_nan() {
        return i128::MAX;
    }
    // The bits of positive floats are in order; those of negative ones are in the opposite.
    let bits = i128::from((if float == 0.0 { 0.0 } else { float }).abs().to_bits());
    if float < 0.0 { -bits } else { bits }
}

impl Found<'_> {
    /// Its key, where that is text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Its key, where that is a number.
    pub(crate) fn number(&self) -> Option<i128> {
        Some(match self {
            Self::Bool(flag) => i128::from(*flag),
            Self::Whole(number) => i128::from(*number),
            Self::Float(float) => in_order(*float),
            Self::Date(days) => i128::from(*days),
            Self::Instant(nanos) => *nanos,
            Self::Text(_) => return None,
        })
    }

    pub(super) fn against(&self, literal: &Literal) -> Option<Ordering> {
        Some(match (self, literal) {
            (Self::Bool(found), Literal::Bool(literal)) => found.cmp(literal),
            (Self::Whole(found), Literal::Integer(literal)) => found.cmp(literal),
            (Self::Float(found), Literal::Float(literal)) => found.cmp(literal),
            (Self::Text(found), Literal::Text(literal)) => found.as_ref().cmp(literal.as_str()),
            (Self::Date(found), Literal::Date(literal)) => found.cmp(literal),
            (Self::Instant(found), Literal::Instant(literal)) => found.cmp(literal),
            _ => return None,
        })
    }

    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::Whole(one), Self::Whole(other)) => one.cmp(other),
            (Self::Float(one), Self::Float(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Date(one), Self::Date(other)) => one.cmp(other),
            (Self::Instant(one), Self::Instant(other)) => one.cmp(other),
            _ => return None,
        })
    }

    pub(super) fn is_in(&self, set: &[Literal]) -> bool {
        let order = |literal: &Literal| self.against(literal).map_or(Ordering::Less, Ordering::reverse);
        set.binary_search_by(order).is_ok()
    }
}

//! The values of a record's datum, field by field.
//!
//! Owns the short way for common types, straight from the bytes. apache-avro reads all other types.

use std::ops::Range;

use apache_avro::Schema;
use apache_avro::schema::RecordField;
use apache_avro::types::Value;

use super::binary::{Cursor, DatumError};
use super::layout::Layout;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue<'d> {
    Null,
    Text(&'d str),
    Whole(i64),
    Boolean(bool),
    /// In the form of the field's schema.
    Other(Value),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Int,
    Long,
    Boolean,
    Date,
    /// A number of 64 bits with a meaning.
    Logical(fn(i64) -> Value),
}

/// How a field is read.
#[derive(Debug, Clone, Copy)]
enum Way {
    Present(Kind),
    /// A union of null and the type, with the index of null.
    Optional(Kind, i64),
    /// By apache-avro.
    Other,
}

/// How the fields of a record are read.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    ways: Vec<Way>,
    /// Whether a field's type is defined within the field, for each of them.
    are_alone: bool,
}

impl Fields {
    pub(super) fn of(schema: &Schema) -> Self {
        let fields = match schema {
            Schema::Record(record) => record.fields.as_slice(),
            _ => &[],
        };
        let ways = fields.iter().map(|field| Way::of(&field.schema)).collect();
        Self { ways, are_alone: !fields.iter().any(|field| has_reference(&field.schema)) }
    }
}

impl Way {
    fn of(schema: &Schema) -> Self {
        let Schema::Union(union) = schema else { return Kind::of(schema).map_or(Self::Other, Self::Present) };
        let (null, other) = match union.variants() {
            [Schema::Null, other] => (0, other),
            [other, Schema::Null] => (1, other),
            _ => return Self::Other,
        };
        Kind::of(other).map_or(Self::Other, |kind| Self::Optional(kind, null))
    }
}

impl Kind {
    const fn of(schema: &Schema) -> Option<Self> {
        Some(match schema {
            Schema::String => Self::Text,
            Schema::Int => Self::Int,
            Schema::Long => Self::Long,
            Schema::Boolean => Self::Boolean,
            Schema::Date => Self::Date,
            Schema::TimestampMillis => Self::Logical(Value::TimestampMillis),
            Schema::TimestampMicros => Self::Logical(Value::TimestampMicros),
            _ => return None,
        })
    }

    fn read<'d>(self, cursor: &mut Cursor<'d>) -> Result<FieldValue<'d>, DatumError> {
        Ok(match self {
            Self::Text => FieldValue::Text(cursor.string()?),
            Self::Int => FieldValue::Whole(i64::from(cursor.int()?)),
            Self::Long => FieldValue::Whole(cursor.long()?),
            Self::Boolean => FieldValue::Boolean(cursor.byte("boolean")? == 1),
            Self::Date => FieldValue::Other(Value::Date(cursor.int()?)),
            Self::Logical(value) => FieldValue::Other(value(cursor.long()?)),
        })
    }
}

fn has_reference(schema: &Schema) -> bool {
    match schema {
        Schema::Ref { .. } => true,
        Schema::Array(array) => has_reference(&array.items),
        Schema::Map(map) => has_reference(&map.types),
        Schema::Union(union) => union.variants().iter().any(has_reference),
        Schema::Record(record) => record.fields.iter().any(|field| has_reference(&field.schema)),
        _ => false,
    }
}

/// The fields of a record's schema.
pub(super) fn of_record(schema: &Schema) -> Result<&[RecordField], DatumError> {
    match schema {
        Schema::Record(record) => Ok(&record.fields),
        _ => Err(DatumError::Invalid { at: 0, what: "its schema is no record" }),
    }
}

/// A valid datum as apache-avro reads it.
pub(super) fn read(schema: &Schema, mut bytes: &[u8]) -> Result<Value, DatumError> {
    apache_avro::reader::datum::GenericDatumReader::builder(schema)
        .build()
        .and_then(|reader| reader.read_value(&mut bytes))
        .map_err(|_| DatumError::Invalid { at: 0, what: "the datum is outside its logical type" })
}

impl Fields {
    /// The values of a record's datum, in the order of its fields. All three are of one schema: these, the schema, and its
    /// layout.
    pub(super) fn values<'d>(
        &self,
        schema: &Schema,
        layout: &Layout,
        datum: &'d [u8],
    ) -> Result<Vec<FieldValue<'d>>, DatumError> {
        let schemas = of_record(schema)?;
        let ranges = layout.fields(datum)?;
        if !self.are_alone {
            let Value::Record(values) = read(schema, datum)? else {
                return Err(DatumError::Invalid { at: 0, what: "it is no record" });
            };
            return Ok(values.into_iter().map(|(_, value)| FieldValue::Other(value)).collect());
        }
        let parts = self.ways.iter().zip(schemas).zip(ranges);
        let value = |((way, field), range): ((&Way, &RecordField), Range<usize>)| {
            let bytes = datum.get(range).unwrap_or_default();
            let mut cursor = Cursor::new(bytes);
            match way {
                Way::Present(kind) => kind.read(&mut cursor),
                Way::Optional(_, null) if cursor.long()? == *null => Ok(FieldValue::Null),
                Way::Optional(kind, _) => kind.read(&mut cursor),
                Way::Other => read(&field.schema, bytes).map(FieldValue::Other),
            }
        };
        parts.map(value).collect()
    }
}

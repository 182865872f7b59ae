//! The columns of a replica table: made from the stream's schema, compared with what is there.
//!
//! Owns the types' mapping and the words for a difference. Pure but for the SQL that it spells.

use apache_avro::Schema;
use schemas::avro::names::column_name;
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::digest::hash128;
use serde::{Deserialize, Serialize};

/// The key of a row, as the network has it.
pub(super) const KEY: &str = "dit_key";
/// The pass from the state that brought a row.
pub(super) const GENERATION: &str = "dit_generation";
/// PostgreSQL cuts longer names.
const LONGEST_NAME: usize = 63;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// Its type as PostgreSQL spells it.
    pub(super) kind: String,
    /// Whether it may not be null.
    pub(super) not_null: bool,
    /// What people are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<String>,
}

impl Column {
    fn own(name: &str, kind: &str, comment: &str) -> Self {
        let (name, kind, comment) = (name.to_owned(), kind.to_owned(), Some(comment.to_owned()));
        Self { name, kind, not_null: true, comment }
    }

    /// Its definition, as it is added to a table with rows: nothing is there yet that could be other than null.
    pub(super) fn definition(&self, not_null: bool) -> String {
        let not_null = if not_null { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", quoted(&self.name), self.kind)
    }
}

/// The columns that are ours in every table.
pub(super) fn own_columns() -> Vec<Column> {
    vec![
        Column::own(
            KEY,
            "text",
            "The key of the row, as the register has it; several fields as a JSON array",
        ),
        Column::own(GENERATION, "bigint", "The pass from the present state that brought the row"),
    ]
}

/// Whether a column is a field's, not ours.
pub(super) fn is_field(column: &Column) -> bool {
    column.name != KEY && column.name != GENERATION
}

/// The columns of a schema's fields, in order.
pub(super) fn field_columns(derived: &AvroSchema) -> Result<Vec<Column>, SchemaError> {
    let record = derived.record()?.record;
    let mut columns: Vec<Column> = Vec::with_capacity(record.fields.len());
    for field in &record.fields {
        let (kind, nullable) = kind_of(&field.schema);
        let plain = column_name(&field.name).unwrap_or_else(|| field.name.clone());
        let mut name = fitting(&plain);
        if columns.iter().any(|column| column.name == name) {
            name = fitting(&format!("{plain}_{:08x}", hash128(field.name.as_bytes()) >> 96));
        }
        columns.push(Column { name, kind, not_null: !nullable, comment: field.doc.clone() });
    }
    Ok(columns)
}

fn fitting(plain: &str) -> String {
    let name = match plain {
        "" => "_".to_owned(),
        KEY | GENERATION => format!("{plain}_"),
        other => other.to_owned(),
    };
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let mut end = LONGEST_NAME - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:08x}", name.get(..end).unwrap_or_default(), hash128(name.as_bytes()) >> 96)
}

/// PostgreSQL's type for a schema, and whether null may stand there.
fn kind_of(schema: &Schema) -> (String, bool) {
    let kind = match schema {
        Schema::Union(union) => {
            let nullable = union.variants().iter().any(|variant| matches!(variant, Schema::Null));
            let mut others = union.variants().iter().filter(|variant| !matches!(variant, Schema::Null));
            return match (others.next(), others.next()) {
                (Some(only), None) => (kind_of(only).0, nullable),
                _ => ("jsonb".to_owned(), nullable),
            };
        }
        Schema::Decimal(decimal) => {
            return (format!("numeric({},{})", decimal.precision, decimal.scale), false);
        }
        Schema::Boolean => "boolean",
        Schema::Int => "integer",
        Schema::Long => "bigint",
        Schema::Float => "real",
        Schema::Double => "double precision",
        Schema::Bytes | Schema::Fixed(_) => "bytea",
        Schema::String | Schema::Enum(_) => "text",
        Schema::BigDecimal => "numeric",
        Schema::Uuid(_) => "uuid",
        Schema::Date => "date",
        Schema::TimeMillis | Schema::TimeMicros => "time without time zone",
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
            "timestamp with time zone"
        }
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            "timestamp without time zone"
        }
        Schema::Null => return ("text".to_owned(), true),
        _ => "jsonb",
    };
    (kind.to_owned(), false)
}

/// A name as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Where a table differs from what the agent left, in words; empty when it does not.
pub(super) fn differences(left: &[Column], found: &[Column]) -> Vec<String> {
    let of = |columns: &[Column], name: &str| columns.iter().find(|column| column.name == name).cloned();
    let mut words = Vec::new();
    for column in left {
        let name = &column.name;
        match of(found, name) {
            None => words.push(format!("column {name} is gone")),
            Some(now) if now.kind != column.kind => {
                words.push(format!("column {name} is {}, it was {}", now.kind, column.kind));
            }
            Some(now) if now.not_null != column.not_null => {
                let word = if now.not_null { "no longer" } else { "now" };
                words.push(format!("column {name} may {word} be null"));
            }
            Some(_) => {}
        }
    }
    for column in found.iter().filter(|column| of(left, &column.name).is_none()) {
        words.push(format!("column {} ({}) was added", column.name, column.kind));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &str) -> AvroSchema {
        AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
    }

    #[test]
    fn types_follow_the_schema() {
        let derived = schema(
            r#"{"name":"a","type":"string","doc":"the name"},
            {"name":"b","type":["null","long"]},
            {"name":"c","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
            {"name":"d","type":["null",{"type":"int","logicalType":"date"}]},
            {"name":"e","type":{"type":"long","logicalType":"timestamp-micros"}},
            {"name":"f","type":{"type":"array","items":"string"}},
            {"name":"g","type":["null","string","int"]},
            {"name":"h","type":{"type":"enum","name":"E","symbols":["x"]}},
            {"name":"i","type":"bytes"}"#,
        );
        let columns = field_columns(&derived).unwrap();
        let kinds: Vec<_> = columns.iter().map(|c| (c.kind.as_str(), c.not_null)).collect();
        assert_eq!(
            kinds,
            [
                ("text", true),
                ("bigint", false),
                ("numeric(10,2)", true),
                ("date", false),
                ("timestamp with time zone", true),
                ("jsonb", true),
                ("jsonb", false),
                ("text", true),
                ("bytea", true),
            ]
        );
        assert_eq!(columns[0].comment.as_deref(), Some("the name"));
    }

    #[test]
    fn names_fit_and_stay_apart() {
        let long = "ļ".repeat(40);
        let field = schemas::avro::names::field_name(&long);
        let other = schemas::avro::names::field_name(&format!("{long}x"));
        let text = format!(
            r#"{{"name":"{field}","type":"string"}},{{"name":"{other}","type":"string"}},
            {{"name":"dit_key","type":"string"}}"#
        );
        let columns = field_columns(&schema(&text)).unwrap();
        assert!(columns.iter().all(|column| column.name.len() <= LONGEST_NAME));
        assert_ne!(columns[0].name, columns[1].name);
        assert_eq!(columns[2].name, "dit_key_");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn a_difference_is_named() {
        let left =
            field_columns(&schema(r#"{"name":"a","type":"string"},{"name":"b","type":"int"}"#)).unwrap();
        assert!(differences(&left, &left).is_empty());
        let mut found = left.clone();
        found[0].kind = "character varying(20)".to_owned();
        found[1].name = "c".to_owned();
        assert_eq!(
            differences(&left, &found),
            [
                "column a is character varying(20), it was text",
                "column b is gone",
                "column c (integer) was added"
            ]
        );
        found = left.clone();
        found[1].not_null = false;
        assert_eq!(differences(&left, &found), ["column b may now be null"]);
    }
}

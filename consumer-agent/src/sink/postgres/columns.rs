//! The columns of a replica table: made from the stream's schema, and compared with the table's own columns.
//!
//! Owns the mapping of types and the words for a difference. Pure: it writes SQL as text, and runs none.

use apache_avro::Schema;
use schemas::avro::names::column_name;
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::digest::hash128;
use serde::{Deserialize, Serialize};

/// The columns of a stream's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamColumns<'s> {
    /// The schema of its images.
    pub(super) derived: &'s AvroSchema,
    /// The columns that the stream needs, in the order of the schema's fields.
    pub(super) wanted: &'s [Column],
}

/// The column of a row's key.
pub(super) const KEY: &str = "dit_key";
/// The column of the snapshot that brought a row.
pub(super) const GENERATION: &str = "dit_generation";
/// In bytes; PostgreSQL cuts longer names.
const LONGEST_NAME: usize = 63;
/// The new name of a column that is in the way and cannot be dropped; a number follows.
const ASIDE: &str = "dit_aside_";
/// Columns that every PostgreSQL table has already, and our own.
const RESERVED: [&str; 8] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", KEY, GENERATION];
/// Hexadecimal digits that distinguish shortened names.
const HASH_DIGITS: usize = 16;
/// PostgreSQL's limit for one table.
pub(super) const MOST_COLUMNS: usize = 1_600;
/// The most fields that an agreement may have: two columns are our own.
pub const MOST_FIELDS: usize = MOST_COLUMNS - 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type as PostgreSQL spells it.
    pub(super) kind: String,
    /// Whether it may not be null.
    pub(super) not_null: bool,
    /// What people are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<String>,
    /// The name that it has in the register, where PostgreSQL cannot have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stands_for: Option<String>,
}

impl Column {
    fn own(name: &str, kind: &str, comment: &str) -> Self {
        let name = name.to_owned();
        let kind = kind.to_owned();
        let comment = Some(comment.to_owned());
        Self { name, kind, not_null: true, comment, stands_for: None }
    }

    /// Whether equal values have the same text: 1.0 and 1.00 do not where no scale is given, nor do 0 and -0.
    pub(super) fn has_one_spelling(&self) -> bool {
        !matches!(self.kind.as_str(), "numeric" | "real" | "double precision" | "jsonb")
    }

    /// The column's comment in the database.
    pub(super) fn words(&self) -> String {
        let comment = self.comment.clone().unwrap_or_default();
        match &self.stands_for {
            Some(field) if comment.is_empty() => format!("In the register: {field}"),
            Some(field) => format!("{comment} (in the register: {field})"),
            None => comment,
        }
    }

    /// Its definition in SQL. A column that is added to a table with rows must be nullable at first.
    pub(super) fn definition(&self, not_null: bool) -> String {
        let not_null = if not_null { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", quoted(&self.name), self.kind)
    }
}

/// Our own columns in every table.
pub(super) fn own_columns() -> Vec<Column> {
    vec![
        Column::own(
            KEY,
            "text",
            "The key of the row, as the register has it; several fields as a JSON array",
        ),
        Column::own(GENERATION, "bigint", "The snapshot of the present state that brought the row"),
    ]
}

/// Whether a column belongs to a field, not to us.
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
        let name = fitting(&plain);
        let stands_for = (name != plain).then_some(plain);
        columns.push(Column { name, kind, not_null: !nullable, comment: field.doc.clone(), stands_for });
    }
    Ok(columns)
}

/// A column's name in PostgreSQL: its own where that is possible. Distinct names stay distinct: a name that looks like
/// a changed one is changed, too.
fn fitting(plain: &str) -> String {
    let stem = plain.trim_end_matches('_');
    let is_taken = RESERVED.contains(&stem) || stem.is_empty() || stem.starts_with(ASIDE);
    let name = if is_taken { format!("{plain}_") } else { plain.to_owned() };
    let looks_cut = name.len() > LONGEST_NAME - 4
        && name.rsplit_once('_').is_some_and(|(_, end)| {
            end.len() == HASH_DIGITS
                && end.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        });
    if name.len() <= LONGEST_NAME && !looks_cut {
        return name;
    }
    let mut end = name.len().min(LONGEST_NAME - 1 - HASH_DIGITS);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:016x}", name.get(..end).unwrap_or_default(), hash128(name.as_bytes()) >> 64)
}

/// A new name for a column that is in the way and cannot be dropped: no field's column has this name.
pub(super) fn aside(left: &[Column]) -> String {
    let is_free = |name: &String| left.iter().all(|column| column.name != *name);
    (1_u32..).map(|number| format!("{ASIDE}{number}")).find(is_free).unwrap_or_default()
}

/// PostgreSQL's type for a schema, and whether it is nullable.
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

/// A name as a quoted identifier of SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// How a table's columns differ from those that the agent left, in words; empty when they do not.
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
        assert_eq!(
            (columns[2].name.as_str(), columns[2].stands_for.as_deref()),
            ("dit_key_", Some("dit_key"))
        );
        assert_eq!(
            (columns[0].stands_for.as_deref(), columns[0].name.len()),
            (Some(long.as_str()), LONGEST_NAME)
        );
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn distinct_names_stay_distinct() {
        let long = "x".repeat(70);
        let names = [
            "xmin",
            "xmin_",
            "xmin__",
            "ctid",
            "XMIN",
            "",
            "_",
            "__",
            "dit_key",
            "dit_key_",
            "a_",
            "dit_aside_1",
            "dit_aside_1_",
        ];
        let mut all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        all.extend([long.clone(), format!("{long}y"), fitting(&long), fitting(&fitting(&long))]);
        let fitted: std::collections::BTreeSet<String> = all.iter().map(|name| fitting(name)).collect();
        assert_eq!(fitted.len(), all.len(), "{fitted:?}");
        assert!(fitted.iter().all(|name| !name.is_empty() && name.len() <= LONGEST_NAME));
        assert!(fitted.iter().all(|name| !RESERVED.contains(&name.as_str())));
        assert_eq!((fitting("xmin"), fitting("a_")), ("xmin_".to_owned(), "a_".to_owned()));
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

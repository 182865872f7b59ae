//! Single changes that a local system hands over: JSON of our own, or CloudEvents around it.
//!
//! Owns the shape of an item and what becomes of it on top of the images. One item that makes no sense is refused by
//! itself; the others go on.

use std::collections::HashMap;

use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::compare::{KeyReader, Read, RowReader};
use super::table::Row;

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operation {
    /// The row is as given: it is created, or updated where it is there.
    #[serde(rename = "c", alias = "u")]
    Put,
    /// The row is gone; only the key's fields are looked at.
    #[serde(rename = "d")]
    Delete,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// `c`, `u` or `d`.
    pub op: Operation,
    /// Column → plain value.
    pub row: Map<String, Json>,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ItemResult {
    /// It is in the outbox.
    Taken {
        /// The key of its row.
        key: String,
    },
    /// The register is so already.
    Unchanged {
        /// The key of its row.
        key: String,
    },
    /// It is not taken; nothing of it is kept.
    Refused {
        /// Why, and where.
        reason: String,
    },
}

/// Reads a body: one item or several; CloudEvents carry the item as their `data`.
pub fn parse(body: &[u8], is_cloud_events: bool) -> Vec<Result<Item, String>> {
    let wrong = |problem: String| vec![Err(problem)];
    let values = match serde_json::from_slice::<Json>(body) {
        Ok(Json::Array(values)) => values,
        Ok(value) => vec![value],
        Err(error) => return wrong(format!("the body is no JSON: {error}")),
    };
    values.into_iter().map(|value| item(value, is_cloud_events)).collect()
}

fn item(value: Json, is_cloud_event: bool) -> Result<Item, String> {
    let data = match value {
        Json::Object(mut event) if is_cloud_event => {
            for attribute in ["specversion", "id", "source", "type"] {
                if !event.get(attribute).is_some_and(Json::is_string) {
                    return Err(format!("the CloudEvent has no {attribute}"));
                }
            }
            event.remove("data").ok_or("the CloudEvent has no data")?
        }
        other => other,
    };
    serde_json::from_value(data).map_err(|e| {
        format!("{e}; a change is {{\"op\": \"c\", \"u\" or \"d\", \"row\": {{column: value}}}}")
    })
}

/// A key, and its row where there is one afterwards.
pub(crate) type Change = (String, Option<Vec<u8>>);

/// Reads items into changes; readers are kept by their columns.
pub(crate) struct ItemReader<'s> {
    schema: &'s AvroSchema,
    spec: &'s KeySpec,
    rows: HashMap<Vec<String>, Result<RowReader, String>>,
}

impl<'s> ItemReader<'s> {
    pub(crate) fn new(schema: &'s AvroSchema, spec: &'s KeySpec) -> Self {
        Self { schema, spec, rows: HashMap::new() }
    }

    pub(crate) fn read(&mut self, item: Item) -> Result<Change, String> {
        let (header, values): (Vec<String>, Vec<Json>) = item.row.into_iter().unzip();
        let cells = header.iter().zip(values).map(|(name, value)| plain(name, value));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        if item.op == Operation::Delete {
            let reader = KeyReader::new(self.schema, self.spec, &header).map_err(|e| e.to_string())?;
            let key = reader.read(&cells).ok_or("the key cannot be made of the row's fields")?;
            return Ok((key.as_str().to_owned(), None));
        }
        let (schema, spec) = (self.schema, self.spec);
        let reader = self
            .rows
            .entry(header)
            .or_insert_with_key(|header| RowReader::new(schema, spec, header).map_err(|e| e.to_string()))
            .as_ref()
            .map_err(Clone::clone)?;
        if let Some(column) = reader.ignored().first() {
            return Err(format!("the schema has no field {column:?}"));
        }
        match reader.read(&Row { line: 0, cells: Ok(cells) }) {
            Read::Good { key, datum } => Ok((key.as_str().to_owned(), Some(datum))),
            Read::Bad { parked, .. } => Err(match parked.column {
                Some(column) => format!("{column}: {}", parked.reason),
                None => parked.reason,
            }),
        }
    }
}

fn plain(name: &str, value: Json) -> Result<String, String> {
    match value {
        Json::String(text) => Ok(text),
        Json::Null => Ok(String::new()),
        Json::Array(_) | Json::Object(_) => Err(format!("{name:?} is nested; only plain values are read")),
        plain => Ok(plain.to_string()),
    }
}

/// A row's key and its datum, from column → plain value, as a local system hands it over.
pub fn read_row(
    schema: &AvroSchema,
    spec: &KeySpec,
    row: Map<String, Json>,
) -> Result<(String, Vec<u8>), String> {
    match ItemReader::new(schema, spec).read(Item { op: Operation::Put, row })? {
        (key, Some(datum)) => Ok((key, datum)),
        (_, None) => Err("the row has no values".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_plain_or_as_cloud_events_and_a_wrong_one_stands_alone() {
        let found =
            parse(br#"[{"op":"c","row":{"k":"1"}},{"op":"x","row":{}},{"op":"d","row":{"k":1}}]"#, false);
        assert_eq!(found.len(), 3);
        assert!(found[0].is_ok() && found[2].is_ok());
        assert!(found[1].as_ref().is_err_and(|e| e.contains("unknown variant `x`")));
        let event = br#"{"specversion":"1.0","id":"7","source":"/x","type":"change","data":{"op":"u","row":{"k":"1"}}}"#;
        assert_eq!(parse(event, true)[0].as_ref().map(|item| item.op), Ok(Operation::Put));
        assert!(parse(event, false)[0].is_err(), "its media type says what it is");
        assert!(parse(br#"{"id":"7"}"#, true)[0].as_ref().is_err_and(|e| e.contains("no specversion")));
        assert!(parse(b"{", false)[0].as_ref().is_err_and(|e| e.contains("no JSON")));
    }
}

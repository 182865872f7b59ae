//! Single changes that a local system hands over: JSON of this project, or CloudEvents around it.
//!
//! Owns the shape of an item, and the result that its sender gets.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use crate::source::cells::{Cell, Cells};
use crate::source::objects::{self, Members};

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The row is created, or updated where it exists.
    Put,
    /// The row is deleted; only the key's fields are read.
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub op: Operation,
    /// Columns and plain values.
    pub row: Cells,
}

impl Item {
    /// A change whose row was made by this program: numbers are as JSON writes them.
    pub fn made(op: Operation, row: &Map<String, Json>) -> Self {
        let members: Vec<_> = row.iter().map(|(name, value)| (name.as_str(), made(value))).collect();
        Self { op, row: Cells::named(members.iter().map(|(name, cell)| (*name, cell.borrowed()))) }
    }
}

fn made(value: &Json) -> Cell<Cow<'_, str>> {
    match value {
        Json::Null => Cell::Null,
        Json::Bool(value) => Cell::Boolean(*value),
        Json::Number(number) => Cell::Number(Cow::Owned(number.to_string())),
        Json::String(text) => Cell::Text(Cow::Borrowed(text)),
        Json::Array(_) | Json::Object(_) => Cell::Nested,
    }
}

/// The result for an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ItemResult {
    /// It is in the outbox.
    Taken {
        /// The key of its row.
        key: String,
    },
    /// The register has this row already.
    Unchanged {
        /// The key of its row.
        key: String,
    },
    /// It is not taken; nothing of it is kept.
    Refused { reason: String },
}

/// What an item looks like, for messages.
const SHAPE: &str = "a change is {\"op\": \"c\", \"u\" or \"d\", \"row\": {column: value}}";

/// Reads a body: one item or several; CloudEvents carry the item as their `data`. `Err` for a body that is no JSON; an
/// item that makes no sense is refused alone.
pub fn parse(body: &[u8], is_cloud_events: bool) -> Result<Vec<Result<Item, String>>, String> {
    let no_json = |error: serde_json::Error| format!("the body is no JSON: {error}");
    let body: &RawValue = serde_json::from_slice(body).map_err(no_json)?;
    let items: Vec<&RawValue> = match body.get().starts_with('[') {
        true => serde_json::from_str(body.get()).map_err(no_json)?,
        false => vec![body],
    };
    Ok(items.into_iter().map(|item| read(item, is_cloud_events)).collect())
}

fn members<'t>(value: &'t RawValue, what: &str) -> Result<Members<'t>, String> {
    serde_json::from_str(value.get())
        .map_err(|error| format!("{what}: {}; {SHAPE}", objects::in_words(&error)))
}

fn read(value: &RawValue, is_cloud_event: bool) -> Result<Item, String> {
    let data = if is_cloud_event { event_data(value)? } else { value };
    let mut op = None;
    let mut row = None;
    for (name, value) in members(data, "the change")?.0 {
        match &*name {
            "op" => op = Some(operation(value)?),
            "row" => {
                let mut cells = Cells::default();
                let read = objects::read(value.get(), &mut cells);
                read.map_err(|error| format!("its row: {}", objects::in_words(&error)))?;
                row = Some(cells);
            }
            other => return Err(format!("the change has {other:?}; {SHAPE}")),
        }
    }
    match (op, row) {
        (Some(op), Some(row)) => Ok(Item { op, row }),
        (None, _) => Err(format!("the change has no \"op\"; {SHAPE}")),
        (_, None) => Err(format!("the change has no \"row\"; {SHAPE}")),
    }
}

fn operation(value: &RawValue) -> Result<Operation, String> {
    match objects::cell(value) {
        Cell::Text(op) if op == "c" || op == "u" => Ok(Operation::Put),
        Cell::Text(op) if op == "d" => Ok(Operation::Delete),
        _ => Err(format!("its \"op\" is none of c, u, d; {SHAPE}")),
    }
}

fn event_data(value: &RawValue) -> Result<&RawValue, String> {
    let members = members(value, "the CloudEvent")?.0;
    let of = |name: &str| members.iter().find(|(member, _)| member == name).map(|(_, value)| *value);
    for attribute in ["specversion", "id", "source", "type"] {
        if !of(attribute).is_some_and(|value| matches!(objects::cell(value), Cell::Text(_))) {
            return Err(format!("the CloudEvent has no {attribute}"));
        }
    }
    of("data").ok_or_else(|| "the CloudEvent has no data".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_plain_or_as_cloud_events_and_a_wrong_one_stands_alone() {
        let read = |body: &str, is_cloud_events| parse(body.as_bytes(), is_cloud_events).unwrap();
        let found = read(
            r#"[{"op":"c","row":{"k":"1"}},{"op":"x","row":{}},{"op":"d","row":{"k":1}},{"op":"c","op":"d","row":{}},
                {"op":"c","row":{"k":1E400}},{"op":"c","row":{"k":"\ud83d"}},{"op":"c"},{"op":"c","row":{},"x":1},7]"#,
            false,
        );
        let is_good: Vec<bool> = found.iter().map(Result::is_ok).collect();
        assert_eq!(is_good, [true, false, true, false, true, true, false, false, false]);
        assert!(found[1].as_ref().is_err_and(|e| e.contains("none of c, u, d")));
        assert!(found[3].as_ref().is_err_and(|e| e.contains("\"op\" stands there twice")));
        assert_eq!(found[4].as_ref().unwrap().row.member("k"), Some(Cell::Number("1E400")));
        assert_eq!(found[5].as_ref().unwrap().row.member("k"), Some(Cell::BadEscape));
        let event = r#"{"specversion":"1.0","id":"7","source":"/x","type":"change","data":{"op":"u","row":{"k":"1"}}}"#;
        assert_eq!(read(event, true)[0].as_ref().map(|item| item.op), Ok(Operation::Put));
        assert!(read(event, false)[0].is_err(), "its media type says what it is");
        assert!(read(r#"{"id":"7"}"#, true)[0].as_ref().is_err_and(|e| e.contains("no specversion")));
        for body in [&b"{"[..], b"", b"[{}", b"{} {}", b"\"\xff\""] {
            assert!(parse(body, false).unwrap_err().contains("no JSON"));
        }
    }
}

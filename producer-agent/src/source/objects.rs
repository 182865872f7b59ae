//! Objects of JSON as named cells, each value as it was written.
//!
//! Owns what JSON leaves open: a member given twice is refused, a number keeps its digits, and an invalid escape makes
//! only its own cell unreadable.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cells::{Cell, Cells};

/// What is wrong with a JSON text, without its content.
pub(super) fn in_words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    match words.starts_with("invalid type") || words.starts_with("invalid value") {
        true => "it is no object".to_owned(),
        false => words.to_owned(),
    }
}

/// An object's members in order, with unread values.
pub(super) struct Members<'t>(pub(super) Vec<(Cow<'t, str>, &'t RawValue)>);

impl<'de: 't, 't> Deserialize<'de> for Members<'t> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                let mut names = HashSet::new();
                while let Some(Name(name)) = map.next_key()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!(
                            "member {name:?} stands there twice"
                        )));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A name is borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

/// A value as a cell; a string is borrowed where nothing in it is escaped.
pub(super) fn cell(value: &RawValue) -> Cell<Cow<'_, str>> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map_or(Cell::BadEscape, |Name(text)| Cell::Text(text)),
        Some(b'{' | b'[') => Cell::Nested,
        Some(b't') => Cell::Boolean(true),
        Some(b'f') => Cell::Boolean(false),
        Some(b'n') => Cell::Null,
        _ => Cell::Number(Cow::Borrowed(text)),
    }
}

/// Puts the members of an object that begins at a place of a row's text into that row's cells.
pub(super) fn read(text: &str, cells: &mut Cells) -> Result<(), serde_json::Error> {
    let Members(members) = serde_json::from_str(text)?;
    cells.begin_named();
    for (name, value) in members {
        let start = (value.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        cells.push_member(&name, cell(value).borrowed(), start..start + value.get().len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_as_it_was_written() {
        let text =
            r#"{"a": 0.10, "b\u0020c": "x", "d": null, "e": true, "f": [1], "g": "\ud83d", "h": 1E400}"#;
        let mut cells = Cells::default();
        read(text, &mut cells).unwrap();
        let expected = [
            ("a", Cell::Number("0.10")),
            ("b c", Cell::Text("x")),
            ("d", Cell::Null),
            ("e", Cell::Boolean(true)),
            ("f", Cell::Nested),
            ("g", Cell::BadEscape),
            ("h", Cell::Number("1E400")),
        ];
        assert_eq!(cells.names().unwrap().zip(cells.iter()).collect::<Vec<_>>(), expected);
        assert_eq!(&text[cells.start(0).unwrap()..][..4], "0.10");
    }

    #[test]
    fn a_member_stands_there_once_and_an_object_alone() {
        let of = |text: &str| read(text, &mut Cells::default());
        let said = |text: &str| of(text).unwrap_err().to_string();
        assert!(said(r#"{"a":1,"a":1}"#).contains("\"a\" stands there twice"));
        assert!(said(r#"{"a":1,"\u0061":2}"#).contains("twice"));
        assert!(said(r#"{"a":1} {"a":2}"#).contains("trailing"));
        assert!(said("[1]").contains("an object"));
        for text in ["", "{", "{\"a\":NaN}", "{\"a\":01}", "{\"a\":1,}", "{'a':1}", "{\"a\":+1}"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}

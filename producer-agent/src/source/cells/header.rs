//! Matches a file's columns with a schema's fields.
//!
//! Owns the search for a field's column, and the words for a header that does not fit: in quotes, so that a blank can
//! be seen, with the spelling that was nearly right.

use std::fmt::Write as _;

/// Why a file's header does not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A field has no column and no default.
    #[error("no column for field {field:?} (looked for {looked}); the file has {found}{hint}")]
    Missing {
        field: String,
        /// The names that would fit.
        looked: String,
        found: String,
        /// The likely cause, with what to do.
        hint: String,
    },
    /// Two columns for one field.
    #[error("columns {first:?} and {second:?} both match field {field:?}; rename or remove one of them")]
    Twice { field: String, first: String, second: String },
    /// A field's type cannot be read from text.
    #[error("field {0:?} has a type that cannot be read from a cell; use a simple type or a nullable one")]
    Unsupported(String),
}

/// The most columns that a message names.
const NAMED: usize = 40;

/// Names in quotes: blanks and invisible characters can be seen.
pub fn in_quotes<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let mut text = String::new();
    let mut rest = names.into_iter();
    for name in rest.by_ref().take(NAMED) {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{name:?}");
    }
    match rest.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// The index of the one column that has one of these names.
pub(super) fn find(header: &[String], field: &str, names: &[String]) -> Result<Option<usize>, HeaderError> {
    let mut columns = header.iter().enumerate().filter(|(_, column)| names.contains(column));
    match (columns.next(), columns.next()) {
        (Some((_, first)), Some((_, second))) => {
            Err(HeaderError::Twice { field: field.to_owned(), first: first.clone(), second: second.clone() })
        }
        (found, _) => Ok(found.map(|(index, _)| index)),
    }
}

pub(super) fn missing(header: &[String], field: &str, names: &[String]) -> HeaderError {
    let hint = names.iter().find_map(|name| hint(header, name)).unwrap_or_default();
    HeaderError::Missing { field: field.to_owned(), looked: in_quotes(names), found: in_quotes(header), hint }
}

/// Characters that other files have between cells.
const DELIMITERS: [char; 4] = [';', '\t', '|', ','];

/// What a person may have overlooked where a name is missing: another delimiter, a blank, capital letters.
pub fn hint(header: &[String], name: &str) -> Option<String> {
    if let [only] = header
        && let Some(delimiter) = DELIMITERS.iter().find(|delimiter| only.contains(**delimiter))
    {
        let spelt = if *delimiter == '\t' { "\\t".to_owned() } else { delimiter.to_string() };
        return Some(format!(
            "; it looks separated by {delimiter:?}: try --delimiter '{spelt}', or delimiter = \"{spelt}\" in [format]"
        ));
    }
    let is_plain =
        |c: &char| !c.is_whitespace() && !c.is_control() && !matches!(c, '\u{feff}' | '\u{200b}' | '\u{a0}');
    let bare = |text: &str| text.chars().filter(is_plain).collect::<String>();
    let near = header.iter().find(|column| bare(column).to_lowercase() == bare(name).to_lowercase())?;
    let differs = match bare(near) == bare(name) {
        true => "has a blank or an invisible character more or less",
        false => "differs in capital letters",
    };
    Some(format!("; {near:?} {differs}: it must be spelt the same at the source and here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_nearly_right_is_pointed_at() {
        let header = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let said = |names: &[&str]| hint(&header(names), "municipality").unwrap_or_default();
        assert!(said(&["a", " municipality"]).contains("\" municipality\" has a blank"));
        assert!(
            said(&["a", "\u{feff}municipality"])
                .contains("\"\\u{feff}municipality\" has a blank or an invisible")
        );
        assert!(said(&["a", "Municipality"]).contains("differs in capital letters"));
        assert!(said(&["a;municipality"]).contains("--delimiter ';'"));
        assert!(said(&["a\tmunicipality"]).contains("--delimiter '\\t'"));
        assert_eq!(said(&["a", "town"]), "");
        let many: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        assert!(in_quotes(&many).ends_with("\"39\" and 10 more"));
    }
}

//! How a provider's files are written: the `[format]` table.
//!
//! Owns its keys and the check that they make sense. Nothing is guessed: what contradicts these keys is refused with
//! its location.

use encoding_rs::Encoding;
use serde::Deserialize;

use super::values::calendar::DateFormat;
use super::values::numeral::{NumberStyle, Rounding};

/// What a quote means in delimited text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quoting {
    /// RFC 4180: a cell may be quoted, a quote within is doubled. Anything else is refused.
    #[default]
    Rfc4180,
    /// As RFC 4180 where a line can be read so. Elsewhere a quote closes its cell only before a delimiter or the line's
    /// end, and no cell goes beyond its line.
    Lenient,
    /// RFC 4180 with escapes: `\"`, `\\`, `\` before a delimiter or a line's end, `\n`, `\r`, `\t`; `\N` stays as it is.
    Backslash,
    /// A quote is a character like any other.
    None,
}

/// How a file is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableFormat {
    /// One ASCII character between cells; by default a comma, a tab for `.tsv` and `.tab`.
    pub delimiter: Option<char>,
    /// The name of an encoding (WHATWG): `utf-8`, `utf-16le`, `windows-1257`; `utf-8` by default. A byte order mark overrides it.
    pub encoding: String,
    /// The columns' names when the file has no header line.
    pub header: Option<Vec<String>>,
    /// What a quote means; `rfc4180` by default.
    pub quoting: Quoting,
    /// The column that says `c`, `u` or `d`. A file that has it is a change file; one without it is the register.
    pub operation_column: Option<String>,
    /// Cells of delimited text that stand for null, quoted or not: one text or several, such as `\N`, `-`, `NULL`.
    #[serde(deserialize_with = "one_or_several")]
    pub null_marker: Vec<String>,
    /// How dates are written, such as `%d.%m.%Y` or `dd.mm.yyyy`; `2026-01-31` without it.
    pub date_format: Option<DateFormat>,
    /// The character before the fraction of a number; a point by default.
    pub decimal_separator: char,
    /// The character between groups of three digits. With a decimal comma a blank may stand there, without this key too.
    pub group_separator: Option<char>,
    /// What becomes of digits that a field cannot hold; `refuse` by default.
    pub rounding: Rounding,
    /// The last line of a whole file, such as `({rows} rows affected)`; `{rows}` stands for its count of rows and must be
    /// there. A file without this line is not whole and is refused.
    pub trailer: Option<String>,
}

impl Default for TableFormat {
    fn default() -> Self {
        Self {
            delimiter: None,
            encoding: "utf-8".to_owned(),
            header: None,
            quoting: Quoting::default(),
            operation_column: None,
            null_marker: Vec::new(),
            date_format: None,
            decimal_separator: '.',
            group_separator: None,
            rounding: Rounding::default(),
            trailer: None,
        }
    }
}

/// Why a `[format]` table makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{0:?} is no encoding that is known; use utf-8, utf-16le, utf-16be or windows-1257")]
    Encoding(String),
    /// The delimiter is not one byte, or means something else.
    #[error("the delimiter {0:?} is not one ASCII character other than a quote and a line's end")]
    Delimiter(char),
    #[error(
        "decimal_separator = {decimal:?} and group_separator = {group:?} cannot be told apart, or are digits or signs"
    )]
    Separators {
        /// Before the fraction.
        decimal: char,
        /// Between groups.
        group: Option<char>,
    },
    /// A column's name is blank, or comes twice.
    #[error("{0}")]
    Names(String),
    /// The trailer counts nothing.
    #[error("trailer = {0:?} has no {{rows}}: nothing shows that the file is whole")]
    Trailer(String),
}

impl TableFormat {
    /// Checks that the keys make sense.
    pub fn check(&self) -> Result<(), FormatError> {
        self.encoding()?;
        self.delimiter.map_or(Ok(()), |delimiter| one_byte(delimiter).map(drop))?;
        let decimal = self.decimal_separator;
        let group = self.group_separator;
        let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '"');
        if is_sign(decimal) || group.is_some_and(|group| is_sign(group) || group == decimal) {
            return Err(FormatError::Separators { decimal, group });
        }
        let mut names = self.header.clone().unwrap_or_default();
        names.sort();
        if let Some([name, _]) = names.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(FormatError::Names(format!("header has {name:?} twice")));
        }
        if self.operation_column.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(FormatError::Names(
                "operation_column is blank; leave it out where there is none".to_owned(),
            ));
        }
        match &self.trailer {
            Some(trailer) if !trailer.contains("{rows}") => Err(FormatError::Trailer(trailer.clone())),
            _ => Ok(()),
        }
    }

    pub(super) fn encoding(&self) -> Result<&'static Encoding, FormatError> {
        let found = Encoding::for_label(self.encoding.as_bytes());
        let found = found.filter(|encoding| *encoding != encoding_rs::REPLACEMENT);
        found.ok_or_else(|| FormatError::Encoding(self.encoding.clone()))
    }

    /// The byte between cells; `by_name` is the default for the file's ending.
    pub(super) fn delimiter_of(&self, by_name: char) -> Result<u8, FormatError> {
        one_byte(self.delimiter.unwrap_or(by_name))
    }

    /// How numbers are written in delimited text.
    pub(super) const fn numbers(&self) -> NumberStyle {
        NumberStyle { decimal: self.decimal_separator, group: self.group_separator }
    }
}

fn one_byte(delimiter: char) -> Result<u8, FormatError> {
    let byte = u8::try_from(delimiter).ok().filter(u8::is_ascii);
    byte.filter(|byte| !matches!(byte, b'"' | b'\n' | b'\r')).ok_or(FormatError::Delimiter(delimiter))
}

fn one_or_several<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "one text or a list of texts")]
    enum Texts {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |format: TableFormat| format.check().unwrap_err().to_string();
        let plain = TableFormat::default;
        assert!(plain().check().is_ok());
        assert!(check(TableFormat { encoding: "klingon".to_owned(), ..plain() }).contains("klingon"));
        assert!(check(TableFormat { delimiter: Some('€'), ..plain() }).contains("not one ASCII character"));
        assert!(check(TableFormat { delimiter: Some('"'), ..plain() }).contains("other than a quote"));
        assert!(check(TableFormat { decimal_separator: '7', ..plain() }).contains("told apart"));
        assert!(check(TableFormat { trailer: Some("end".to_owned()), ..plain() }).contains("{rows}"));
    }
}

//! The expected contents of each replica of the made-up network, computed from the raw files alone.
//!
//! Owns its own reading, folding, choosing and hashing. It shares no code with the path of the data: not the agents'
//! tables, not the schemas, not the scopes.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use anyhow::Context;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::generate::{OPERATION, OWNER_PREFIX, PHONE_PREFIX};

/// One row: column → cell.
type Row = BTreeMap<String, String>;

/// A register, folded from its files: key → row.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(BTreeMap<String, Row>);

impl Ledger {
    /// Folds a file: a whole register, or changes where it has an operation column. The key is the first column.
    pub(super) fn fold(&mut self, file: &Path, key: &str) -> anyhow::Result<()> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(b';')
            .from_path(file)
            .with_context(|| file.display().to_string())?;
        let is_changes = reader.headers()?.iter().any(|column| column == OPERATION);
        if !is_changes {
            self.0.clear();
        }
        for row in reader.deserialize() {
            let mut row: Row = row?;
            let key = row.get(key).context("a row without its key")?.clone();
            match row.remove(OPERATION).as_deref() {
                Some("d") => drop(self.0.remove(&key)),
                _ => drop(self.0.insert(key, row)),
            }
        }
        Ok(())
    }
}

/// How a field leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    Whole,
    /// The first of January of its year.
    Year,
    /// The first so many characters.
    Masked(usize),
    /// As a keyed hash.
    Hashed,
}

/// What one consumer should see.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Only rows whose column has this value; all rows where it is `None`.
    pub(super) rows: Option<(&'static str, &'static str)>,
    /// Each field, and how it leaves.
    pub(super) fields: Vec<(&'static str, Leaves)>,
    /// The network's secret and the agreement's number, for the hashes.
    pub(super) secret: Vec<u8>,
    pub(super) number: String,
}

impl View {
    /// The rows that a replica should hold, as JSON texts in order.
    pub(super) fn of(&self, ledger: &Ledger) -> Vec<String> {
        let inside =
            |row: &&Row| self.rows.is_none_or(|(column, value)| row.get(column).is_some_and(|v| v == value));
        let mut found: Vec<String> = ledger.0.values().filter(inside).map(|row| self.image(row)).collect();
        found.sort_unstable();
        found
    }

    fn image(&self, row: &Row) -> String {
        let image: BTreeMap<&str, Value> = self
            .fields
            .iter()
            .map(|(field, leaves)| {
                let cell = row.get(*field).map(String::as_str).unwrap_or_default();
                let value = match leaves {
                    Leaves::Whole => json!(cell),
                    Leaves::Year => json!(format!("{}-01-01", cell.chars().take(4).collect::<String>())),
                    Leaves::Masked(keep) => {
                        let rest = cell.chars().count().saturating_sub(*keep);
                        let kept: String = cell.chars().take(*keep).collect();
                        json!(kept + &"*".repeat(rest))
                    }
                    Leaves::Hashed => json!(self.hash(field, cell)),
                };
                (*field, value)
            })
            .collect();
        json!(image).to_string()
    }

    /// As documented: HMAC-SHA-256 under a key that is derived from the network's secret and the agreement's number.
    fn hash(&self, field: &str, cell: &str) -> String {
        let mac = |key: &[u8], text: &[u8]| {
            Hmac::<Sha256>::new_from_slice(key).map(|mut mac| {
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            })
        };
        let label = [b"dit agreement key v1\0", self.number.as_bytes()].concat();
        let key = mac(&self.secret, &label).unwrap_or_default();
        let text = [field.as_bytes(), b"\0", cell.as_bytes()].concat();
        mac(&key, &text)
            .unwrap_or_default()
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

/// Whether a consumer's files, or the segments with all that it received, contain a telephone number or an owner's
/// code: no agreement here gives either unchanged.
pub(super) fn holds_denied(dir: &Path) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let found = if path.is_dir() {
            holds_denied(&path)?
        } else {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            [PHONE_PREFIX, OWNER_PREFIX]
                .iter()
                .any(|word| bytes.windows(word.len()).any(|window| window == word.as_bytes()))
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The rows of a replica's NDJSON file, as JSON texts in order.
pub(super) fn held(path: &Path) -> anyhow::Result<Vec<String>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut rows = Vec::new();
    for line in std::io::BufReader::new(file).lines() {
        let row: BTreeMap<String, Value> = serde_json::from_str(&line?)?;
        rows.push(json!(row).to_string());
    }
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_made_of_rows_fields_and_what_becomes_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let mut ledger = Ledger::default();
        ledger
            .fold(&write("a.csv", "k;t;d;p\n1;R;2019-05-06;2345\n2;J;2020-01-01;1\n3;R;2001-02-03;9\n"), "k")
            .unwrap();
        ledger.fold(&write("b.csv", "op;k;t;d;p\nu;2;R;2020-01-01;12\nd;3;R;2001-02-03;9\n"), "k").unwrap();
        let view = View {
            rows: Some(("t", "R")),
            fields: vec![("k", Leaves::Whole), ("d", Leaves::Year), ("p", Leaves::Masked(1))],
            secret: vec![1; 32],
            number: "A-1".to_owned(),
        };
        let expected = [r#"{"d":"2019-01-01","k":"1","p":"2***"}"#, r#"{"d":"2020-01-01","k":"2","p":"1*"}"#];
        assert_eq!(view.of(&ledger), expected);
        assert_eq!(view.hash("p", "1").len(), 64);
        assert_ne!(view.hash("p", "1"), view.hash("k", "1"));
    }
}

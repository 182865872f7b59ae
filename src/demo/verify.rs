//! The verification: the expected contents of each replica, computed from the raw files alone.
//!
//! Owns its own reading, keying and comparing. It shares no code with the path of the data: not the agents' tables, not
//! the schemas, not the scopes; and its parser of delimited text is of another origin.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::Path;

use anyhow::Context;
use icu_normalizer::ComposingNormalizerBorrowed;
use sha2::{Digest, Sha256};

use super::raw::{Raw, RawRow, Reading};

/// One version's file, and whether its changes counted.
#[derive(Debug, Clone)]
pub struct Version<'a> {
    pub file: &'a Path,
    /// Its header, when the file has none of its own.
    pub header: Option<&'a [String]>,
    pub key: &'a [String],
    pub territory: &'a str,
}

struct Kept {
    /// The number of its territory's name.
    territory: usize,
    row: u128,
    cells: Option<Vec<String>>,
}

/// A row that went from one territory to another between two versions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Its key, as the file has it.
    pub key: String,
    /// The territory that it left.
    pub from: String,
    /// The territory that it is in now.
    pub to: String,
}

/// The register, folded from the files row by row. Keys and rows are kept as hashes: registers are large.
#[derive(Default)]
pub struct Register {
    rows: HashMap<u128, Kept>,
    territories: HashMap<String, usize>,
    header: Vec<String>,
    /// Some rows that moved, of which one is shown as an example.
    moved: Vec<Moved>,
}

fn hash(bytes: &[u8]) -> u128 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut first = [0; 16];
    first.copy_from_slice(digest.split_at(16).0);
    u128::from_be_bytes(first)
}

/// A row as a JSON object's canonical text: columns in order of their names.
fn row_hash(header: &[String], cells: &[String]) -> u128 {
    let object: BTreeMap<&String, &String> = header.iter().zip(cells).collect();
    hash(serde_json::to_string(&object).unwrap_or_default().as_bytes())
}

/// The counts of one version's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Rows that could be read.
    pub rows: usize,
    /// Rows that could not be read, or that contradict each other.
    pub set_aside: usize,
}

/// The most moved rows that are kept.
const MOST_MOVED: usize = 1_000;
/// The most that a row and a key may have, as docs/files.md says.
const MOST_ROW_BYTES: usize = 440_000;
const MOST_KEY_BYTES: usize = 1_024;

impl Register {
    /// Folds a version: rows of a repeated key that differ, and rows that cannot be read, leave their key as it was.
    pub fn fold(
        &mut self,
        version: &Version<'_>,
        reading: &Reading,
        keep_cells: bool,
    ) -> anyhow::Result<Folded> {
        let raw = Raw::read(version.file, reading, version.header)?;
        self.change_header(&raw.header);
        let indexes = version
            .key
            .iter()
            .map(|name| column_index(&raw.header, name))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let territory = column_index(&raw.header, version.territory)?;
        // The hashes of each key's rows; `None` for a row that cannot be read.
        let mut found: HashMap<u128, Vec<Option<u128>>> = HashMap::new();
        let mut keyless = false;
        let mut folded = Folded::default();
        let readable = |row: &RawRow| row.cells().and_then(|cells| key_of(cells, &indexes, reading));
        for row in raw.rows() {
            keyless |= row.is_broken();
            match readable(&row) {
                Some(key) => {
                    let hash = row.whole().filter(|cells| size(cells) <= MOST_ROW_BYTES);
                    found.entry(key).or_default().push(hash.map(|cells| row_hash(&raw.header, &cells)));
                }
                None => (keyless, folded.set_aside) = (true, folded.set_aside + 1),
            }
        }
        for rows in found.values() {
            match is_one_row(rows) {
                true => folded.rows += rows.len(),
                false => folded.set_aside += rows.len(),
            }
        }
        for row in raw.rows() {
            let Some((key, cells)) = readable(&row).zip(row.whole()) else { continue };
            if !found.get(&key).is_some_and(|rows| is_one_row(rows)) {
                continue;
            }
            let name = cells.get(territory).cloned().unwrap_or_default();
            let words: Vec<&str> =
                indexes.iter().filter_map(|index| cells.get(*index)).map(String::as_str).collect();
            self.note_move(key, &name, &words.join(", "));
            let fresh = self.territories.len();
            let territory = *self.territories.entry(name).or_insert(fresh);
            let row = row_hash(&raw.header, &cells);
            self.rows.insert(key, Kept { territory, row, cells: keep_cells.then_some(cells) });
        }
        if !keyless {
            self.rows.retain(|key, _| found.contains_key(key));
        }
        Ok(folded)
    }

    /// Keeps a row that moved between two territories, neither of them empty, as an example.
    fn note_move(&mut self, key: u128, to: &str, words: &str) {
        let Some(kept) = self.rows.get(&key).filter(|_| self.moved.len() < MOST_MOVED) else { return };
        let from = self.territories.iter().find(|(_, code)| **code == kept.territory).map(|(name, _)| name);
        if let Some(from) = from.filter(|from| *from != to && !from.is_empty() && !to.is_empty()) {
            self.moved.push(Moved { key: words.to_owned(), from: from.clone(), to: to.to_owned() });
        }
    }

    /// An example of a moved row, preferably from one of these territories to another of them.
    pub fn moved(&self, told: &[String]) -> Option<Moved> {
        let parties = |moved: &&Moved| (told.contains(&moved.from), told.contains(&moved.to));
        self.moved.iter().rev().max_by_key(parties).cloned()
    }

    /// A version that the guard held: its rows do not count, but its columns are the agreements' now.
    pub fn pass_over(&mut self, version: &Version<'_>, reading: &Reading) -> anyhow::Result<()> {
        let raw = Raw::read(version.file, reading, version.header)?;
        self.change_header(&raw.header);
        Ok(())
    }

    /// Unchanged rows of earlier versions are shown under the later header.
    fn change_header(&mut self, header: &[String]) {
        if self.header == header {
            return;
        }
        let old = std::mem::replace(&mut self.header, header.to_vec());
        let index = |column: &String| {
            old.iter().position(|name| name == column).or_else(|| {
                let mut same = old.iter().enumerate().filter(|(_, name)| {
                    name.to_lowercase() == column.to_lowercase() && !header.contains(name)
                });
                same.next().map(|(index, _)| index)
            })
        };
        let indexes: Vec<Option<usize>> = header.iter().map(index).collect();
        for kept in self.rows.values_mut() {
            if let Some(cells) = kept.cells.take() {
                let moved: Vec<String> = indexes
                    .iter()
                    .map(|index| index.and_then(|index| cells.get(index)).cloned().unwrap_or_default())
                    .collect();
                kept.row = row_hash(header, &moved);
                kept.cells = Some(moved);
            }
        }
    }

    /// The rows of a territory, or all of them: sorted hashes.
    pub fn part(&self, territory: Option<&str>) -> Vec<u128> {
        let wanted = territory.map(|name| self.territories.get(name).copied());
        let inside = |kept: &&Kept| wanted.is_none_or(|wanted| wanted == Some(kept.territory));
        let mut rows: Vec<u128> = self.rows.values().filter(inside).map(|kept| kept.row).collect();
        rows.sort_unstable();
        rows
    }
}

/// Whether all rows of a key can be read and are equal.
fn is_one_row(rows: &[Option<u128>]) -> bool {
    matches!(rows.split_first(), Some((Some(first), others)) if others.iter().all(|row| *row == Some(*first)))
}

/// A row's bytes as the network counts them: each text with its length before it.
fn size(cells: &[String]) -> usize {
    let length = |text: &String| {
        let bits = usize::try_from(usize::BITS - (text.len() * 2).leading_zeros()).unwrap_or(0);
        bits.div_ceil(7).max(1) + text.len()
    };
    cells.iter().map(length).sum()
}

fn normalised(text: &str, steps: &[String]) -> String {
    steps.iter().fold(text.to_owned(), |text, step| match step.as_str() {
        "lowercase" => text.to_lowercase(),
        "trim" => text.trim().to_owned(),
        "nfc" => ComposingNormalizerBorrowed::new_nfc().normalize(&text).into_owned(),
        _ => text,
    })
}

/// The position of a column: by its own name, or else by its only other spelling.
fn column_index(header: &[String], name: &str) -> anyhow::Result<usize> {
    let other = |column: &&String| column.to_lowercase() == name.to_lowercase();
    let found = header.iter().position(|column| column == name).or_else(|| {
        let index = header.iter().position(|column| other(&column))?;
        (header.iter().filter(other).count() == 1).then_some(index)
    });
    found.with_context(|| format!("there is no column {name:?}"))
}

/// The hash of a row's key; `None` when it is empty, too long or cannot be read.
fn key_of(cells: &[Option<String>], key: &[usize], reading: &Reading) -> Option<u128> {
    let part = |index: &usize| cells.get(*index).cloned().flatten();
    let parts: Vec<String> = key.iter().map(part).collect::<Option<_>>()?;
    let parts: Vec<String> = parts.iter().map(|part| normalised(part, &reading.normalise)).collect();
    let text = serde_json::to_string(&parts).unwrap_or_default();
    let length = match parts.as_slice() {
        [only] => only.len(),
        _ => text.len(),
    };
    (!parts.iter().all(String::is_empty) && length <= MOST_KEY_BYTES).then(|| hash(text.as_bytes()))
}

/// The rows of a replica's NDJSON file: sorted hashes.
pub fn replica(path: &Path) -> anyhow::Result<Vec<u128>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    hashes(std::io::BufReader::new(file).lines())
}

/// Rows as JSON objects: sorted hashes.
pub fn hashes(lines: impl Iterator<Item = std::io::Result<String>>) -> anyhow::Result<Vec<u128>> {
    let mut rows = Vec::new();
    for line in lines {
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(&line?)?;
        rows.push(hash(serde_json::to_string(&object)?.as_bytes()));
    }
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading { delimiter: b',', encoding: "utf-8".to_owned(), normalise: vec![] }
    }

    fn fold(register: &mut Register, text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v.csv");
        std::fs::write(&file, text).unwrap();
        let version = Version { file: &file, header: None, key: &["k".to_owned()], territory: "t" };
        register.fold(&version, &reading(), true).unwrap();
    }

    fn rows(lines: &[&str]) -> Vec<u128> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("r.ndjson");
        std::fs::write(&file, lines.join("\n")).unwrap();
        replica(&file).unwrap()
    }

    #[test]
    fn a_replica_in_any_order_of_columns_and_rows_is_compared_by_content() {
        let mut register = Register::default();
        fold(&mut register, "k,t\na,R\nb,R\nc,J\n");
        assert_eq!(register.part(Some("R")), rows(&[r#"{"t":"R","k":"b"}"#, r#"{"k":"a","t":"R"}"#]));
        assert_ne!(register.part(Some("R")), rows(&[r#"{"t":"R","k":"b"}"#]));
        assert_eq!(register.part(None).len(), 3);
    }

    #[test]
    fn a_repeated_key_keeps_what_it_was_and_absent_ones_go() {
        let mut register = Register::default();
        fold(&mut register, "k,t\na,R\nb,R\n");
        fold(&mut register, "k,t\na,J\na,K\n");
        assert_eq!(register.part(None), rows(&[r#"{"k":"a","t":"R"}"#]));
    }

    #[test]
    fn a_new_header_shows_old_rows_too() {
        let mut register = Register::default();
        fold(&mut register, "k,t\na,R\nb,R\n");
        fold(&mut register, "K,t,n\na,R,\na,J,\nb,R,x\n");
        assert_eq!(
            register.part(None),
            rows(&[r#"{"K":"a","t":"R","n":""}"#, r#"{"K":"b","t":"R","n":"x"}"#])
        );
    }
}

//! The verification: what each replica should hold, computed from the raw files alone.
//!
//! Owns its own reading, keying and comparing. It shares no code with the way that the data took: not the
//! agents' tables, not the schemas, not the scopes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

/// One version's file, and whether its changes counted.
#[derive(Debug, Clone)]
pub struct Version<'a> {
    /// The file.
    pub file: &'a Path,
    /// Its header, when the file has none of its own.
    pub header: Option<&'a [String]>,
    /// Positions of the key's columns.
    pub key: &'a [usize],
    /// Position of the territory's column.
    pub territory: usize,
}

/// How the files are to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Between cells.
    pub delimiter: u8,
    /// The encoding's name.
    pub encoding: String,
    /// Steps that make spellings of one key equal.
    pub normalise: Vec<String>,
}

struct Kept {
    territory: String,
    row: u128,
    cells: Option<Vec<String>>,
}

/// The register as the files say, row by row.
#[derive(Default)]
pub struct Register {
    rows: HashMap<Vec<String>, Kept>,
    header: Vec<String>,
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

impl Register {
    /// Folds a version: rows of a repeated key, and rows that cannot be read, leave their key as it was.
    pub fn fold(&mut self, version: &Version<'_>, reading: &Reading, keep_cells: bool) -> anyhow::Result<()> {
        let (header, rows, broken) = read(version, reading)?;
        self.change_header(&header);
        let mut count: HashMap<Vec<String>, u32> = HashMap::new();
        let key_of = |cells: &[String]| -> Vec<String> {
            let parts = version.key.iter().filter_map(|index| cells.get(*index));
            parts.map(|part| normalised(part, &reading.normalise)).collect()
        };
        let mut keyless = broken;
        for cells in &rows {
            let key = key_of(cells);
            if key.iter().all(String::is_empty) || unreadable(&key) {
                keyless = true;
            }
            *count.entry(key).or_default() += 1;
        }
        for cells in rows {
            let key = key_of(&cells);
            let good =
                !key.iter().all(String::is_empty) && !cells.iter().any(|cell| cell.contains('\u{fffd}'));
            if count.get(&key) == Some(&1) && good {
                let territory = cells.get(version.territory).cloned().unwrap_or_default();
                let row = row_hash(&header, &cells);
                self.rows.insert(key, Kept { territory, row, cells: keep_cells.then_some(cells) });
            }
        }
        if !keyless {
            self.rows.retain(|key, _| count.contains_key(key));
        }
        Ok(())
    }

    /// A version that the guard held: its rows do not count, but its columns are the agreements' now.
    pub fn pass_over(&mut self, version: &Version<'_>, reading: &Reading) -> anyhow::Result<()> {
        let (header, _, _) = read(version, reading)?;
        self.change_header(&header);
        Ok(())
    }

    /// Rows that a later version leaves as they were are shown under the later header.
    fn change_header(&mut self, header: &[String]) {
        if self.header == header {
            return;
        }
        let old = std::mem::replace(&mut self.header, header.to_vec());
        let place = |column: &String| {
            old.iter().position(|name| name == column).or_else(|| {
                let mut same = old.iter().enumerate().filter(|(_, name)| {
                    name.to_lowercase() == column.to_lowercase() && !header.contains(name)
                });
                same.next().map(|(index, _)| index)
            })
        };
        let places: Vec<Option<usize>> = header.iter().map(place).collect();
        for kept in self.rows.values_mut() {
            if let Some(cells) = kept.cells.take() {
                let moved: Vec<String> = places
                    .iter()
                    .map(|place| place.and_then(|index| cells.get(index)).cloned().unwrap_or_default())
                    .collect();
                kept.row = row_hash(header, &moved);
                kept.cells = Some(moved);
            }
        }
    }

    /// The rows of a territory, or all of them: sorted hashes.
    pub fn part(&self, territory: Option<&str>) -> Vec<u128> {
        let inside = |kept: &&Kept| territory.is_none_or(|wanted| kept.territory == wanted);
        let mut rows: Vec<u128> = self.rows.values().filter(inside).map(|kept| kept.row).collect();
        rows.sort_unstable();
        rows
    }
}

fn normalised(text: &str, steps: &[String]) -> String {
    steps.iter().fold(text.to_owned(), |text, step| match step.as_str() {
        "lowercase" => text.to_lowercase(),
        "trim" => text.trim().to_owned(),
        _ => text,
    })
}

fn unreadable(key: &[String]) -> bool {
    key.iter().any(|part| part.contains('\u{fffd}'))
}

/// Header, rows of the header's width, and whether any row could not be read.
fn read(version: &Version<'_>, reading: &Reading) -> anyhow::Result<(Vec<String>, Vec<Vec<String>>, bool)> {
    let bytes = std::fs::read(version.file).with_context(|| version.file.display().to_string())?;
    let encoding =
        encoding_rs::Encoding::for_label(reading.encoding.as_bytes()).context("unknown encoding")?;
    let (text, _, _) = encoding.decode(&bytes);
    let mut records = csv::ReaderBuilder::new()
        .delimiter(reading.delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes())
        .into_records();
    let owned = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect::<Vec<String>>();
    let header = match version.header {
        Some(header) => header.to_vec(),
        None => owned(&records.next().context("the file is empty")??),
    };
    let mut rows = Vec::new();
    let mut broken = false;
    for record in records {
        match record {
            Ok(record) if record.len() == header.len() => rows.push(owned(&record)),
            _ => broken = true,
        }
    }
    Ok((header, rows, broken))
}

/// The rows of a replica's NDJSON file: sorted hashes.
pub fn replica(path: &Path) -> anyhow::Result<Vec<u128>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut rows = Vec::new();
    for line in text.lines() {
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(line)?;
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
        let version = Version { file: &file, header: None, key: &[0], territory: 1 };
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

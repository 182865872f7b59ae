//! The verification: what each replica should hold, computed from the raw files alone.
//!
//! Owns its own reading, keying and comparing. It shares no code with the way that the data took: not the
//! agents' tables, not the schemas, not the scopes.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
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
    /// The key's columns.
    pub key: &'a [String],
    /// The territory's column.
    pub territory: &'a str,
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
    /// Where it stands among the territories' names.
    territory: usize,
    row: u128,
    cells: Option<Vec<String>>,
}

/// The register as the files say, row by row. Keys and rows are kept as hashes: registers are large.
#[derive(Default)]
pub struct Register {
    rows: HashMap<u128, Kept>,
    territories: HashMap<String, usize>,
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
        let text = decode(version, reading)?;
        let header = header(version, reading, &text)?;
        self.change_header(&header);
        let key = version.key.iter().map(|name| place(&header, name)).collect::<anyhow::Result<Vec<_>>>()?;
        let territory = place(&header, version.territory)?;
        let mut count: HashMap<u128, u32> = HashMap::new();
        let mut keyless = false;
        for row in rows(version, reading, &text, header.len()) {
            match row.as_ref().and_then(|cells| key_of(cells, &key, reading)) {
                Some(key) => *count.entry(key).or_default() += 1,
                None => keyless = true,
            }
        }
        for cells in rows(version, reading, &text, header.len()).flatten() {
            let Some(key) = key_of(&cells, &key, reading) else { continue };
            if count.get(&key) != Some(&1) || cells.iter().any(|cell| cell.contains('\u{fffd}')) {
                continue;
            }
            let name = cells.get(territory).cloned().unwrap_or_default();
            let fresh = self.territories.len();
            let territory = *self.territories.entry(name).or_insert(fresh);
            let row = row_hash(&header, &cells);
            self.rows.insert(key, Kept { territory, row, cells: keep_cells.then_some(cells) });
        }
        if !keyless {
            self.rows.retain(|key, _| count.contains_key(key));
        }
        Ok(())
    }

    /// A version that the guard held: its rows do not count, but its columns are the agreements' now.
    pub fn pass_over(&mut self, version: &Version<'_>, reading: &Reading) -> anyhow::Result<()> {
        let text = decode(version, reading)?;
        self.change_header(&header(version, reading, &text)?);
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
        let wanted = territory.map(|name| self.territories.get(name).copied());
        let inside = |kept: &&Kept| wanted.is_none_or(|wanted| wanted == Some(kept.territory));
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

/// Where a column stands: under its own name, or under the only other spelling of it.
fn place(header: &[String], name: &str) -> anyhow::Result<usize> {
    let other = |column: &&String| column.to_lowercase() == name.to_lowercase();
    let found = header.iter().position(|column| column == name).or_else(|| {
        let index = header.iter().position(|column| other(&column))?;
        (header.iter().filter(other).count() == 1).then_some(index)
    });
    found.with_context(|| format!("there is no column {name:?}"))
}

/// The hash of a row's key; `None` when it is empty or cannot be read.
fn key_of(cells: &[String], key: &[usize], reading: &Reading) -> Option<u128> {
    let parts: Vec<String> = key
        .iter()
        .filter_map(|index| cells.get(*index))
        .map(|part| normalised(part, &reading.normalise))
        .collect();
    let readable = !parts.iter().any(|part| part.contains('\u{fffd}'));
    (readable && !parts.iter().all(String::is_empty))
        .then(|| hash(serde_json::to_string(&parts).unwrap_or_default().as_bytes()))
}

fn decode(version: &Version<'_>, reading: &Reading) -> anyhow::Result<String> {
    let bytes = std::fs::read(version.file).with_context(|| version.file.display().to_string())?;
    let encoding =
        encoding_rs::Encoding::for_label(reading.encoding.as_bytes()).context("unknown encoding")?;
    Ok(encoding.decode(&bytes).0.into_owned())
}

fn records<'t>(reading: &Reading, text: &'t str) -> csv::StringRecordsIntoIter<&'t [u8]> {
    csv::ReaderBuilder::new()
        .delimiter(reading.delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes())
        .into_records()
}

fn owned(record: &csv::StringRecord) -> Vec<String> {
    record.iter().map(str::to_owned).collect()
}

fn header(version: &Version<'_>, reading: &Reading, text: &str) -> anyhow::Result<Vec<String>> {
    match version.header {
        Some(header) => Ok(header.to_vec()),
        None => Ok(owned(&records(reading, text).next().context("the file is empty")??)),
    }
}

/// Each row's cells; `None` for one that cannot be read or has another width than the header.
fn rows<'t>(
    version: &Version<'_>,
    reading: &Reading,
    text: &'t str,
    width: usize,
) -> impl Iterator<Item = Option<Vec<String>>> + 't {
    let skip = usize::from(version.header.is_none());
    let fits = move |record: csv::StringRecord| (record.len() == width).then(|| owned(&record));
    records(reading, text).skip(skip).map(move |record| record.ok().and_then(fits))
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

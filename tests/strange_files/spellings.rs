//! One register, written as many programs write it: one replica, or a named refusal.
//!
//! Owns the writing. The expected rows of a real file are read from it by another parser than the agent's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use encoding_rs::{UTF_8, WINDOWS_1257};
use serde_json::{Value as Json, json};
use support::real_data;

use crate::provider::{Provider, Rows, schema};

/// How a register is written.
#[derive(Debug, Clone, Copy)]
struct Spelling {
    encoding: &'static str,
    has_mark: bool,
    end: &'static str,
    ends_last: bool,
    delimiter: char,
    quotes_all: bool,
    backwards: bool,
}

const PLAIN: Spelling = Spelling {
    encoding: "utf-8",
    has_mark: false,
    end: "\n",
    ends_last: true,
    delimiter: ',',
    quotes_all: false,
    backwards: false,
};

type Table = (Vec<String>, Vec<Vec<String>>);

fn bytes_of(text: &str, encoding: &str, has_mark: bool) -> Vec<u8> {
    let marked = if has_mark { format!("\u{feff}{text}") } else { text.to_owned() };
    match encoding {
        "utf-8" => marked.into_bytes(),
        "utf-16le" => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        "utf-16be" => marked.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        "windows-1257" => {
            let (bytes, _, has_lost) = WINDOWS_1257.encode(text);
            assert!(!has_lost, "the register has letters beyond {encoding}");
            bytes.into_owned()
        }
        other => panic!("{other}"),
    }
}

impl Spelling {
    fn write(self, (header, rows): &Table) -> Vec<u8> {
        let cell = |cell: &String| {
            let special = |c: char| c == self.delimiter || matches!(c, '"' | '\n' | '\r');
            match self.quotes_all || cell.contains(special) || cell.starts_with(' ') {
                true => format!("\"{}\"", cell.replace('"', "\"\"")),
                false => cell.clone(),
            }
        };
        let order: Vec<usize> =
            if self.backwards { (0..header.len()).rev().collect() } else { (0..header.len()).collect() };
        let line = |cells: &Vec<String>| {
            let cells: Vec<String> = order.iter().map(|index| cell(&cells[*index])).collect();
            cells.join(&self.delimiter.to_string())
        };
        let mut lines = vec![line(header)];
        lines.extend(rows.iter().map(line));
        if self.backwards {
            lines[1..].reverse();
        }
        let text = lines.join(self.end) + if self.ends_last { self.end } else { "" };
        bytes_of(&text, self.encoding, self.has_mark)
    }

    fn format(self) -> String {
        let delimiter = if self.delimiter == '\t' { "\\t".to_owned() } else { self.delimiter.to_string() };
        format!("delimiter = \"{delimiter}\"\nencoding = \"{}\"\n", self.encoding)
    }
}

/// Names as people have them here.
fn register() -> Table {
    let header = ["id", "name", "note"].map(str::to_owned).to_vec();
    let notes = [
        "",
        "SIA \"Ābele\"",
        "two\nlines",
        "a, b; c\td",
        " blank before",
        "\"",
        "Ķekavas nov. – „rīts”",
        "a\"\"b",
    ];
    let rows = (0..120_usize).map(|n| {
        vec![n.to_string(), format!("Ņikita {}", "šž".repeat(n % 5)), notes[n % notes.len()].to_owned()]
    });
    (header, rows.collect())
}

fn texts(header: &[String]) -> Json {
    schema(
        &header.iter().map(|name| (name.clone(), json!("string"))).collect::<serde_json::Map<_, _>>().into(),
    )
}

fn spellings() -> Vec<Spelling> {
    let mut all = Vec::new();
    for encoding in ["utf-8", "utf-16le", "utf-16be", "windows-1257"] {
        for has_mark in [false, true] {
            if has_mark && encoding == "windows-1257" {
                continue;
            }
            for (end, ends_last, delimiter, quotes_all, backwards) in [
                ("\n", true, ',', false, false),
                ("\r\n", false, ';', true, false),
                ("\r", true, '\t', false, true),
                ("\r\n", true, '|', false, true),
                ("\r", false, ',', true, false),
            ] {
                all.push(Spelling { encoding, has_mark, end, ends_last, delimiter, quotes_all, backwards });
            }
        }
    }
    all
}

#[test]
fn thirty_spellings_of_one_register_are_one_replica() {
    let table = register();
    let mut provider = Provider::new(&texts(&table.0), &["id"], "");
    provider.take("register.csv", &PLAIN.write(&table)).unwrap();
    let rows: Rows = provider.rows().clone();
    assert_eq!(rows.len(), table.1.len());
    for row in &table.1 {
        assert_eq!(rows[&row[0]], json!({"id": row[0], "name": row[1], "note": row[2]}));
    }
    let all = spellings();
    assert!(all.len() >= 30);
    for spelling in all {
        provider.reads(&spelling.format());
        let report = provider.take("register.csv", &spelling.write(&table)).unwrap();
        let counts = report.counts;
        assert_eq!((counts.same, counts.parked), (120, 0), "{spelling:?}: {:?}", report.parked);
    }
    let lines: Vec<String> =
        table.1.iter().map(|row| json!({"note": row[2], "id": row[0], "name": row[1]}).to_string()).collect();
    for (end, has_mark, encoding) in
        [("\n", false, "utf-8"), ("\r\n", true, "utf-8"), ("\n", true, "utf-16le")]
    {
        provider.reads(&format!("encoding = \"{encoding}\""));
        let report =
            provider.take("register.ndjson", &bytes_of(&lines.join(end), encoding, has_mark)).unwrap();
        assert_eq!((report.counts.same, report.counts.parked), (120, 0), "{encoding}");
    }
    assert_eq!(provider.rows(), &rows);
}

/// A file that is not of the configured format gives rows of the register, or none: never others.
#[test]
fn a_spelling_that_was_not_told_is_refused_or_parked() {
    let table = register();
    let mut right = Provider::new(&texts(&table.0), &["id"], "");
    right.take("register.csv", &PLAIN.write(&table)).unwrap();
    for spelling in spellings() {
        let is_told = spelling.delimiter == ',' && (spelling.has_mark || spelling.encoding == "utf-8");
        let mut provider = Provider::new(&texts(&table.0), &["id"], "");
        let outcome = provider.take("register.csv", &spelling.write(&table));
        for (key, row) in provider.rows() {
            assert_eq!(right.rows().get(key), Some(row), "{spelling:?}: a row that stands nowhere");
        }
        match outcome {
            Err(error) => assert!(error.is_of_the_file() && !is_told, "{spelling:?}: {error}"),
            Ok(report) => assert_eq!(report.counts.parked > 0, !is_told, "{spelling:?}"),
        }
    }
}

/// A real file's rows by key, as another parser reads them, without keys that have several rows.
fn read_by_another(
    text: &str,
    delimiter: u8,
    header: Option<&[String]>,
    key: &[usize],
) -> (Table, BTreeMap<String, Vec<String>>) {
    let mut reader = csv::ReaderBuilder::new();
    let mut reader =
        reader.delimiter(delimiter).has_headers(header.is_none()).flexible(true).from_reader(text.as_bytes());
    let names: Vec<String> = match header {
        Some(names) => names.to_vec(),
        None => reader.headers().unwrap().iter().map(str::to_owned).collect(),
    };
    let rows: Vec<Vec<String>> =
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    let mut found: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.len() == names.len()) {
        let parts: Vec<&String> = key.iter().map(|index| &row[*index]).collect();
        let text = if let [only] = parts.as_slice() { (*only).clone() } else { json!(parts).to_string() };
        let known = found.entry(text).or_default();
        if !known.contains(row) {
            known.push(row.clone());
        }
    }
    let single =
        found.into_iter().filter_map(|(key, mut rows)| (rows.len() == 1).then(|| (key, rows.remove(0))));
    ((names, rows), single.collect())
}

/// Takes a real file as it is and in other spellings: the rows are those that another parser reads.
fn check(file: &Path, delimiter: char, header: Option<&[&str]>, key: &[&str]) {
    let bytes = std::fs::read(file).unwrap();
    let (text, _, has_errors) = UTF_8.decode(&bytes);
    assert!(!has_errors, "{}", file.display());
    let names: Option<Vec<String>> =
        header.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let first = text
        .lines()
        .next()
        .unwrap_or_default()
        .split(delimiter)
        .map(|name| name.trim_matches('"').to_owned());
    let header: Vec<String> = names.clone().unwrap_or_else(|| first.collect());
    let places: Vec<usize> =
        key.iter().map(|name| header.iter().position(|column| column == name).unwrap()).collect();
    let (table, expected) =
        read_by_another(&text, u8::try_from(delimiter).unwrap(), names.as_deref(), &places);
    let fields: Vec<String> = table.0.iter().map(|name| schemas::avro::names::field_name(name)).collect();
    let key: Vec<&str> = places.iter().map(|index| fields[*index].as_str()).collect();
    let mut provider = Provider::new(&texts(&fields), &key, "");
    let plain = Spelling { delimiter, ..PLAIN };
    let with_header = names.map_or_else(String::new, |names| format!("header = {names:?}\n"));
    provider.reads(&format!("{}{with_header}", plain.format()));
    let is_parked = provider.take("real.csv", &bytes).unwrap().counts.parked;
    let rows: BTreeMap<String, Vec<String>> = provider
        .rows()
        .iter()
        .map(|(key, row)| {
            (key.clone(), fields.iter().map(|name| row[name].as_str().unwrap().to_owned()).collect())
        })
        .collect();
    assert_eq!(rows, expected, "{}", file.display());
    let others = [
        Spelling { end: "\r\n", ends_last: false, quotes_all: true, ..plain },
        Spelling { encoding: "utf-16le", has_mark: true, backwards: true, delimiter: ';', ..plain },
    ];
    for spelling in others {
        provider.reads(&spelling.format());
        let counts = provider.take("real.csv", &spelling.write(&table)).unwrap().counts;
        let changed = (counts.create, counts.update, counts.delete);
        assert_eq!((changed, counts.parked), ((0, 0, 0), is_parked), "{}: {spelling:?}", file.display());
    }
}

const PLACE: [&str; 12] = [
    "country",
    "code",
    "place",
    "admin1",
    "admin1_code",
    "admin2",
    "admin2_code",
    "admin3",
    "admin3_code",
    "lat",
    "lon",
    "accuracy",
];
const PLACE_KEY: [&str; 6] = ["country", "code", "place", "admin2_code", "lat", "lon"];

/// The files of a kind below a folder.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = real_data::files_in(dir).unwrap();
    files.retain(|file| file.extension().is_some_and(|found| found == ending));
    assert!(!files.is_empty(), "{}: no .{ending}", dir.display());
    files
}

/// Some of an archive's files, evenly.
fn unpacked(archive: &Path, into: &Path, most: usize) -> Vec<PathBuf> {
    real_data::unpack(archive, into).unwrap();
    let files = real_data::files_in(into).unwrap();
    let step = files.len().div_ceil(most);
    files.into_iter().step_by(step.max(1)).collect()
}

#[test]
fn real_files_are_what_another_parser_reads_however_they_are_spelt() {
    if let Some(dir) = real_data::folder("the Latvian places", "lv-places") {
        files(&dir, "tsv").iter().for_each(|file| check(file, '\t', Some(&PLACE), &PLACE_KEY));
    }
    if let Some(dir) = real_data::folder("the sample of the company register", "lv-ur-format") {
        files(&dir, "csv").iter().for_each(|file| check(file, ',', None, &["regcode"]));
    }
    if let Some(dir) = real_data::folder("the .gov register", "us-dotgov") {
        let into = tempfile::tempdir().unwrap();
        for file in unpacked(&dir.join("snapshots.tar.zst"), into.path(), 6) {
            let text = std::fs::read_to_string(&file).unwrap();
            let first = text.split(',').next().unwrap().to_owned();
            check(&file, ',', None, &[&first]);
        }
    }
    if let Some(dir) = real_data::folder("places of the world", "places-world") {
        let into = tempfile::tempdir().unwrap();
        for file in unpacked(&dir.join("places-2024-04-12.tar.zst"), into.path(), 12) {
            check(&file, '\t', Some(&PLACE), &PLACE_KEY);
        }
    }
}

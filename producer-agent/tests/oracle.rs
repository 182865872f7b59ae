//! Generated files that Python's `csv`, `decimal`, `datetime` and `json` read: the agent reads the same, or refuses.
//!
//! `DIT_ORACLE=100000` is the long form; `DIT_SEED` repeats a run.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;
use std::process::Command;

use producer_agent::source::cells::{Cell, Cells, Columns, RowEncoder};
use producer_agent::source::file::table::Table;
use producer_agent::source::format::TableFormat;
use producer_agent::source::row::Extent;
use schemas::avro::json::{decode, render};
use schemas::avro::schema::AvroSchema;
use serde_json::{Value as Json, json};

/// Files in every run of the tests.
const COUNT: usize = 6_000;

fn schema(kind: &str) -> AvroSchema {
    let kind = match kind {
        "decimal" => json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}),
        "date" => json!({"type": "int", "logicalType": "date"}),
        "timestamp" => json!({"type": "long", "logicalType": "timestamp-millis"}),
        plain => json!(plain),
    };
    let schema = json!({"type": "record", "name": "R", "fields": [{"name": "x", "type": kind}]});
    AvroSchema::from_json(schema).unwrap()
}

/// The agent's value of a cell; null where it is refused.
fn value(schema: &AvroSchema, cell: Cell<&str>) -> Json {
    let encoder = RowEncoder::new(schema, Columns::Open, &TableFormat::default()).unwrap();
    let mut datum = Vec::new();
    if encoder.encode(&Cells::named([("x", cell)]), &mut datum).is_err() {
        return Json::Null;
    }
    render(schema.parsed(), &decode(schema, &datum).unwrap(), &str::to_owned)["x"].clone()
}

/// A number of JSON as the agent reads it, in a file of one object.
fn number(dir: &Path, schema: &AvroSchema, text: &str) -> Json {
    let path = dir.join("a.ndjson");
    std::fs::write(&path, format!("{{\"y\":0}}\n{{\"x\":{text}}}\n")).unwrap();
    let mut table = Table::open(&path, &TableFormat::default()).unwrap();
    table.next_row().unwrap();
    match table.next_row().unwrap().content() {
        Ok(cells) if cells.len() == 1 => value(schema, cells.get(0).unwrap()),
        _ => Json::Null,
    }
}

/// The rows of a delimited file, and whether all were read.
fn rows(dir: &Path, text: &str) -> (Vec<Vec<String>>, bool) {
    let path = dir.join("a.csv");
    std::fs::write(&path, text).unwrap();
    let mut found = Vec::new();
    let mut table = Table::open(&path, &TableFormat::default()).unwrap();
    while let Some(row) = table.next_row() {
        match row.content() {
            Ok(cells) => {
                let plain = |cell: Cell<&str>| {
                    if let Cell::Plain(text) = cell { text.to_owned() } else { panic!("{cell:?}") }
                };
                found.push(cells.iter().map(plain).collect());
            }
            // A row of another width is not taken: its width is kept.
            Err(bad) if bad.extent == Extent::Row => {
                let words = bad.reason.split_whitespace().nth(2).unwrap();
                found.push(vec![String::new(); words.parse().unwrap()]);
            }
            Err(_) => return (found, false),
        }
    }
    (found, true)
}

fn check_file(dir: &Path, made: &Json) {
    let text = made["text"].as_str().unwrap();
    let (found, is_whole) = rows(dir, text);
    let expected: Vec<Vec<String>> = serde_json::from_value(made["rows"].clone()).unwrap();
    // The agent refuses a blank before a quote; Python reads it as text.
    let has_blank_before_quote = text.contains(" \"");
    if is_whole {
        assert!(made["refused"] == false, "{text:?}: it was read as {found:?}");
        assert_eq!(found.len(), expected.len(), "{text:?}");
    } else {
        assert!(made["refused"] == true || has_blank_before_quote, "{text:?}: it was refused");
    }
    for (ours, theirs) in found.iter().zip(&expected) {
        match theirs.len() {
            2 => assert_eq!(ours, theirs, "{text:?}"),
            width => assert_eq!(ours.len(), width, "{text:?}"),
        }
    }
}

fn check_value(dir: &Path, made: &Json) {
    let kind = made["kind"].as_str().unwrap();
    let schema = schema(kind);
    let mut expected = made["value"].clone();
    let found = match (&made["plain"], &made["json"]) {
        (Json::String(text), _) => value(&schema, Cell::Plain(text)),
        (_, Json::String(text)) => number(dir, &schema, text),
        other => panic!("{other:?}"),
    };
    if kind == "timestamp" && !expected.is_null() {
        let at = schemas::time::Millis::new(expected.as_i64().unwrap()).to_string();
        expected =
            json!(at.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.').to_owned() + "Z");
        // Restores zeros of the seconds that were cut.
        if let Some(text) = expected.as_str().filter(|text| text.len() < "1970-01-01T00:00:00Z".len()) {
            expected = json!(format!("{:0<19}Z", text.trim_end_matches('Z')));
        }
    }
    // A float comes as text, since JSON's readers do not agree in the last bit.
    let is_same = match (found.as_f64(), expected.as_str()) {
        (Some(found), Some(text)) if kind == "double" => {
            found.to_bits() == text.parse::<f64>().unwrap().to_bits()
        }
        _ => found == expected,
    };
    assert!(is_same, "{made}: found {found}");
}

#[test]
fn what_python_reads_the_agent_reads_or_refuses() {
    let from = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let seed = from("DIT_SEED").unwrap_or_else(|| usize::try_from(std::process::id()).unwrap());
    let count = from("DIT_ORACLE").unwrap_or(COUNT);
    println!("seed {seed}: {count} files");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/files.py");
    let seed = seed.to_string();
    let number = count.to_string();
    let made = Command::new("python3").arg(script).args([&seed, &number]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    let mut seen = 0;
    for line in String::from_utf8(made.stdout).unwrap().lines() {
        let made: Json = serde_json::from_str(line).unwrap();
        seen += 1;
        refused +=
            usize::from(made["refused"] == true || made["value"].is_null() && made["kind"].is_string());
        if made["text"].is_string() { check_file(dir.path(), &made) } else { check_value(dir.path(), &made) }
    }
    println!("{seen} files, {refused} of them with something that nobody may read");
    assert_eq!(seen, count);
    assert!(refused * 10 > count && refused * 10 < count * 9, "{refused} of {count}");
}

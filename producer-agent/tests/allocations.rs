//! The rows of a delimited file are read without an allocation for each: each is read into the memory of the one before.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test says what it expects by failing; the figures are small"
)]

use std::fmt::Write as _;

use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::source::port::{Source as _, SourceRow};
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;

const FEW: usize = 50;
const MANY: usize = 5_000;

/// Allocations of reading so many rows: long cells, and some with quotes.
fn allocations(rows: usize) -> u64 {
    let mut text = "code,name,changed_on,level,area\n".to_owned();
    for number in 0..rows {
        let name = "a name that is far longer than what fits into a pointer or three";
        writeln!(
            text,
            "LV{number:07},\"{name}, \"\"{number}\"\"\",2026-11-{:02},{number},{number}.50",
            1 + number % 30
        )
        .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("register.csv");
    std::fs::write(&path, text).unwrap();
    let schema = AvroSchema::parse(
        r#"{"type":"record","name":"R","fields":[{"name":"code","type":"string"},{"name":"name","type":"string"},
        {"name":"changed_on","type":{"type":"int","logicalType":"date"}},{"name":"level","type":["null","long"]},
        {"name":"area","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":2}}]}"#,
    )
    .unwrap();
    let key = KeySpec { fields: vec!["code".to_owned()], normalise: vec![] };
    let source = FileSource::open(&path, &TableFormat::default()).unwrap();
    let counted = allocation_counter::measure(|| {
        let mut read = source.rows(&schema, &key).unwrap();
        let mut present = 0;
        while let Some(row) = read.next_row() {
            present += usize::from(matches!(row, SourceRow::Present { .. }));
        }
        assert_eq!(present, rows);
    });
    counted.count_total
}

#[test]
fn nothing_is_allocated_for_each_row() {
    let (few, many) = (allocations(FEW), allocations(MANY));
    println!("{few} allocations for {FEW} rows, {many} for {MANY}");
    assert!(many.saturating_sub(few) * 20 < (MANY - FEW) as u64, "{few} for {FEW} rows, {many} for {MANY}");
}

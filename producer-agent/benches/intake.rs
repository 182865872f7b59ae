//! The cost of each step from a dropped file to the outbox, for a row: nanoseconds and allocations.
//!
//! `cargo bench -p producer-agent --bench intake`. Its lines are the table in docs/performance.md.

#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first thing that is wrong")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use platform::segments::disk::RealDisk;
use producer_agent::agent::{Agent, Opening};
use producer_agent::image::disk_store::DiskImages;
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::source::port::Source;
use producer_agent::take::guard::Guard;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::ids::LogId;

const ROWS: u64 = 200_000;
const SCHEMA: &str = r#"{"type":"record","name":"lv.bench.Address","fields":[
    {"name":"code","type":"string"},{"name":"municipality","type":"string"},{"name":"name","type":"string"},
    {"name":"street","type":"string"},{"name":"house","type":["null","string"]},{"name":"post_code","type":"string"},
    {"name":"changed_on","type":{"type":"int","logicalType":"date"}},{"name":"note","type":"string"}]}"#;

/// A register whose rows with a number below `changed` differ from those of another one.
fn write(path: &Path, changed: u64) {
    let mut text = "code\tmunicipality\tname\tstreet\thouse\tpost_code\tchanged_on\tnote\n".to_owned();
    for number in 0..ROWS {
        let mark = if number < changed { "mainīts" } else { "aktuāls" };
        writeln!(
            text,
            "{:09}\tM{:03}\tĒka Nr. {number}, Dārza iela\tBrīvības gatve {}\t{}\tLV-{:04}\t2026-11-{:02}\tieraksts {number} no adrešu reģistra; pārbaudīts, {mark}, bez apgrūtinājumiem",
            100_000_000 + number * 7_919 % 1_000_003,
            number % 43,
            number % 977,
            number % 211,
            1_000 + number % 4_500,
            1 + number % 28
        )
        .unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn channel() -> Channel {
    serde_json::from_value(
        serde_json::json!({"name": "bench", "kind": "distribution", "owner": "1", "partitions": 4,
        "key": {"fields": ["code"]}, "schema": serde_json::from_str::<serde_json::Value>(SCHEMA).unwrap()}),
    )
    .unwrap()
}

fn open(dir: &Path) -> Agent {
    let images = Box::new(DiskImages::open(&dir.join("images")).unwrap());
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    let opening = Opening {
        dir: dir.to_owned(),
        disk: Arc::new(RealDisk),
        images,
        channel: channel(),
        log_id: LogId::new([7; 16]),
        schema,
    };
    Agent::open(opening).unwrap()
}

/// Prints what a step takes.
fn measured<T>(step: &str, run: impl FnOnce() -> T) -> T {
    let mut result = None;
    let mut nanos = 0.0;
    let allocations = allocation_counter::measure(|| {
        let begun = Instant::now();
        result = Some(run());
        nanos = begun.elapsed().as_nanos() as f64;
    });
    let (rows, made) = (ROWS as f64, allocations.count_total as f64);
    println!("| {step} | {:.0} | {:.2} |", nanos / rows, made / rows);
    result.unwrap()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let [first, same, half] = [0, 0, ROWS / 2].map(|changed| {
        let path = dir.path().join(format!("register-{changed}.tsv"));
        write(&path, changed);
        FileSource::open(&path, &TableFormat::default()).unwrap()
    });
    let agent = open(&dir.path().join("agent"));
    println!("| step | ns a row | allocations a row |\n|---|---|---|");
    let rows = measured("read the file", || {
        let mut rows = first.rows(agent.schema(), &channel().key).unwrap();
        let mut count = 0;
        while rows.next_row().is_some() {
            count += 1;
        }
        count
    });
    assert_eq!(rows, ROWS);
    let take = |source: &FileSource| agent.take(source, Guard::default(), true).unwrap().counts;
    assert_eq!(measured("take it, all rows new", || take(&first)).create, ROWS);
    assert_eq!(measured("take it again, no row changed", || take(&same)).same, ROWS);
    assert_eq!(measured("take it, every second row changed", || take(&half)).update, ROWS / 2);
}

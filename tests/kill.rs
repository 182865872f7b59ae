//! kill -9 of any process during load: no acknowledged event is lost or repeated in a replica.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use support::site::{Process, Site, eventually};

const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"v","type":"string"}]}"#;
/// Kills in the short form; `DIT_KILLS` asks for more.
const KILLS: u64 = 9;
const ROWS: u64 = 400;

fn site(dir: &std::path::Path) -> Site {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let channel = serde_json::json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 3,
        "key": {"fields": ["k"]}, "schema": schema});
    let agreement = serde_json::json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
        "channel": "register", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": 1, "rows": "t == \"R\"", "fields": {"k": "keep", "v": "keep"}});
    let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
    let site = Site::new(dir, env!("CARGO_BIN_EXE_dit"), &declared).unwrap();
    site.participants(&["4000", "9000"]).unwrap();
    site.producer(
        "4000/main",
        "register",
        SCHEMA,
        "[guard]\nmax_delete_percent = 100\nmax_change_percent = 100\n",
    )
    .unwrap();
    site.consumer("9000/main", "A-1", "register").unwrap();
    site
}

fn start(site: &Site, part: &str) -> Process {
    let arguments: &[&str] = match part {
        "router" => &["router", "--config", "router.toml"],
        "producer" => &["producer", "run", "--config", "producer.toml"],
        _ => &["consumer", "run", "--config", "consumer.toml"],
    };
    site.start(part, arguments).unwrap_or_else(|e| panic!("{e:#}\n{}", site.log(part)))
}

/// The register on day `day`: some rows come, go, move and change each day.
fn register(day: u64) -> (String, BTreeMap<String, String>) {
    let mut text = "k,t,v\n".to_owned();
    let mut part = BTreeMap::new();
    for row in (0..ROWS).filter(|row| !(row + day).is_multiple_of(11)) {
        let territory = if (row / 7 + day).is_multiple_of(3) { "R" } else { "J" };
        let value = format!("{}", row * (day / 2 + 1));
        writeln!(text, "{row},{territory},{value}").unwrap();
        if territory == "R" {
            part.insert(row.to_string(), value);
        }
    }
    (text, part)
}

fn replica(site: &Site) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(site.path("consumer/A-1/register.ndjson")).unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = row["k"].as_str().unwrap().to_owned();
        let repeated = rows.insert(key, row["v"].as_str().unwrap().to_owned());
        assert_eq!(repeated, None, "a row stands twice");
    }
    rows
}

#[test]
fn any_process_may_be_killed_at_any_time() {
    let kills = std::env::var("DIT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let parts = ["router", "producer", "consumer"];
    let mut running: BTreeMap<&str, Process> = parts.iter().map(|part| (*part, start(&site, part))).collect();
    let mut expected = BTreeMap::new();
    for day in 0..kills {
        let (text, part) = register(day);
        expected = part;
        site.drop_file(&format!("{day:04}.csv"), &text).unwrap();
        let name = format!("{day:04}.csv");
        // A different moment for each kill: before, while and after the file is taken.
        if day % 2 == 1 {
            eventually("the file is taken", || Ok(site.path("drop/taken").join(&name).exists()))
                .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
        }
        let victim = parts[usize::try_from(day % 3).unwrap()];
        running.remove(victim).unwrap().kill().unwrap();
        running.insert(victim, start(&site, victim));
    }
    eventually("the replica equals the register's part", || Ok(replica(&site) == expected)).unwrap_or_else(
        |e| {
            let logs: String = parts.iter().map(|part| format!("--- {part}\n{}\n", site.log(part))).collect();
            panic!("{e:#}: {} rows of {}\n{logs}", replica(&site).len(), expected.len())
        },
    );
    for (part, process) in &mut running {
        assert!(process.is_running(), "{part} ended: {}", site.log(part));
    }
}

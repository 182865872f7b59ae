//! A network of real processes with a made-up register that changes each day.
//!
//! Owns the register's days and what the consumer's replica must hold on each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use support::site::{Process, Site, eventually};

pub(crate) const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"v","type":"string"}]}"#;
const ROWS: u64 = 400;

pub(crate) fn site(dir: &std::path::Path) -> Site {
    site_of(dir, env!("CARGO_BIN_EXE_dit"))
}

/// A site with another command in place of `dit`.
pub(crate) fn site_of(dir: &std::path::Path, dit: &str) -> Site {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let channel = serde_json::json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 3,
        "key": {"fields": ["k"]}, "schema": schema});
    let agreement = serde_json::json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
        "channel": "register", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": 1, "rows": "t == \"R\"", "fields": {"k": "keep", "v": "keep"}});
    let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
    let site = Site::new(dir, dit, &declared).unwrap();
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

pub(crate) fn arguments(part: &str) -> &'static [&'static str] {
    match part {
        "router" => &["router", "--config", "router.toml"],
        "producer" => &["producer", "run", "--config", "producer.toml"],
        _ => &["consumer", "run", "--config", "consumer.toml"],
    }
}

pub(crate) fn start(site: &Site, part: &str) -> Process {
    site.start(part, arguments(part)).unwrap_or_else(|e| panic!("{e:#}\n{}", site.log(part)))
}

/// The register on day `day`: some rows come, go, move and change each day.
pub(crate) fn register(day: u64) -> (String, BTreeMap<String, String>) {
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

pub(crate) fn replica(site: &Site) -> BTreeMap<String, String> {
    rows_of(&site.path("consumer/A-1/register.ndjson"))
}

/// The rows of a replica's file; none where there is no file.
pub(crate) fn rows_of(file: &std::path::Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = row["k"].as_str().unwrap().to_owned();
        let repeated = rows.insert(key, row["v"].as_str().unwrap().to_owned());
        assert_eq!(repeated, None, "a row stands twice");
    }
    rows
}

/// A network with one day's register sent and received.
pub(crate) fn settled(site: Site) -> (Site, BTreeMap<&'static str, Process>) {
    let parts = ["router", "producer", "consumer"];
    let mut running = BTreeMap::new();
    for part in parts {
        running.insert(part, start(&site, part));
    }
    take_day(&site, 0);
    (site, running)
}

/// Drops a day's register and waits until the replica is right.
pub(crate) fn take_day(site: &Site, day: u64) {
    let (text, part) = register(day);
    site.drop_file(&format!("{day:04}.csv"), &text).unwrap();
    eventually("the replica equals the register's part", || Ok(replica(site) == part)).unwrap_or_else(|e| {
        panic!("{e:#}\n{}\n{}\n{}", site.log("router"), site.log("producer"), site.log("consumer"))
    });
}

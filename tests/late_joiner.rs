//! A late joiner with `from=state` on real places of many countries: each key once, then live changes.
//!
//! The key is country + postal code + place + district (columns 1, 2, 3 and 6); rows of a repeated key are parked.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

#[cfg(feature = "kafka")]
mod two_routers;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::real_data;

const HEADER: &str =
    "country,postal_code,place,admin1,admin1_code,parish,admin2_code,admin3,admin3_code,lat,lon,accuracy";
/// The short form: countries with many moves and changes of code.
const SHORT: [&str; 4] = ["LV.txt", "NO.txt", "SK.txt", "EE.txt"];

/// One version of the register in one file, and the number of keys that occur in it once.
fn version(real: &Path, unpacked: &Path, day: &str) -> (PathBuf, usize) {
    real_data::unpack(&real.join(format!("places-{day}.tar.zst")), unpacked).unwrap();
    let mut text = String::new();
    for file in real_data::files_in(&unpacked.join(day)).unwrap() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if std::env::var_os("DIT_LONG").is_some() || SHORT.contains(&name.as_str()) {
            text.push_str(&std::fs::read_to_string(file).unwrap());
        }
    }
    let mut keys: HashMap<[&str; 4], u32> = HashMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        *keys.entry([cells[0], cells[1], cells[2], cells[5]]).or_default() += 1;
    }
    let once = keys.values().filter(|count| **count == 1).count();
    let path = unpacked.join(format!("{day}.tsv"));
    std::fs::write(&path, &text).unwrap();
    (path, once)
}

/// The same play with two routers on a real Kafka, one of them killed when the late joiner is about to start, and into
/// PostgreSQL.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_on_kafka_and_into_postgresql() {
    let Some(real) = real_data::folder("a late joiner on Kafka", "places-world") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (first, before) = version(&real, dir.path(), "2021-06-24");
    let (second, after) = version(&real, dir.path(), "2024-04-12");
    let (routers, backing) = two_routers::start(dir.path()).await;
    let (begun, killing) = two_routers::kill_at(routers, 2);
    let outcome = dit::demo::register::play(dit::demo::register::RegisterOptions {
        files: vec![first, second],
        key: ["country", "postal_code", "place", "parish"].map(str::to_owned).to_vec(),
        territory: "country".to_owned(),
        encoding: "utf-8".to_owned(),
        header: Some(HEADER.split(',').map(str::to_owned).collect()),
        backing,
        postgres: Some(parts::postgres::Postgres::shared().unwrap()),
        begun,
        ..Default::default()
    });
    let outcome = outcome.await.unwrap();
    drop(killing.await.unwrap());
    assert!(outcome.equal);
    let late = outcome.replicas.last().unwrap();
    // The materialiser decides how much the state holds when its snapshot begins; the rest comes as live changes.
    let present = usize::try_from(late.delivered.present).unwrap();
    assert!(present > 0 && late.delivered.changed > 0 && present <= before.max(after), "{late:?}");
}

#[test]
fn a_late_joiner_gets_each_key_once_and_then_what_happens() {
    let Some(real) = real_data::folder("a late joiner on real places", "places-world") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (first, before) = version(&real, dir.path(), "2021-06-24");
    let (second, after) = version(&real, dir.path(), "2024-04-12");
    let output = Command::new(env!("CARGO_BIN_EXE_dit"))
        .args(["demo", "--register", first.to_str().unwrap(), "--then", second.to_str().unwrap()])
        .args(["--header", HEADER, "--key", "country,postal_code,place,parish", "--territory", "country"])
        .args(["--output", "json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let result: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(result["equal"], true, "{}", String::from_utf8_lossy(&output.stderr));
    let memory = result["peak_memory_bytes"].as_u64().unwrap();
    assert!(memory < 1 << 30, "{memory} bytes for the whole network and its verification");
    let late = result["replicas"].as_array().unwrap().last().unwrap().clone();
    let present = late["delivered"]["present"].as_u64();
    let changed = late["delivered"]["changed"].as_u64();
    let versions = result["versions"].as_array().unwrap();
    let counts = versions.iter().flat_map(|version| ["create", "update", "delete"].map(|op| &version[op]));
    let happened: u64 = counts.map(|count| count.as_u64().unwrap()).sum();
    let present = present.unwrap();
    let changed = changed.unwrap();
    // The materialiser decides how much of the first version the state holds when its snapshot begins; the rest comes
    // as live changes, which do not repeat the state.
    assert!(present > 0 && changed > 0, "{late}");
    assert!(late["rows"].as_u64().unwrap() <= present + changed && present + changed <= happened, "{late}");
    assert!(usize::try_from(present).unwrap() <= before.max(after), "a key was given twice: {late}");
}

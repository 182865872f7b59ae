//! Types the README's second page, block by block, as a new user would.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;
use std::process::Command;

fn blocks(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A free port, so that a network that runs on this machine is not disturbed.
fn free_port() -> u16 {
    parts::ports::address().unwrap().port()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// A page's step by its number.
fn step(page: &str, number: u32) -> String {
    let begin = page.find(&format!("## {number}. ")).unwrap();
    let rest = &page[begin..];
    rest.get(3..).and_then(|rest| rest.find("\n## ")).map_or(rest, |end| &rest[..end + 3]).to_owned()
}

#[test]
fn the_page_for_a_new_site_is_true() {
    let out = type_in(&blocks(&page("new-site.md")), "");
    assert!(out.contains(r#""name":"SIA \"Ābele\"","opened":"2019-01-01""#), "{out}");
}

/// Steps 3 and 5 on Kafka and PostgreSQL, the others as on the first page.
#[cfg(feature = "kafka")]
#[test]
fn the_page_for_kafka_and_postgresql_is_true() {
    let plain = page("new-site.md");
    let kafka = page("new-site-kafka.md");
    let steps = [step(&plain, 1), step(&plain, 2), step(&kafka, 3), step(&plain, 4), step(&kafka, 5)];
    let database = parts::postgres::Postgres::shared().unwrap();
    let (_, place) = database.split_once('@').unwrap();
    let typed = blocks(&steps.concat())
        .replace("localhost:9092", &parts::kafka::Kafka::shared(1).unwrap())
        .replace("127.0.0.1:5432/postgres", place);
    let out = type_in(&typed, parts::postgres::bin().unwrap().to_str().unwrap());
    assert!(out.contains(r#"SIA "Ābele" | Ogres novads | 2019-01-01"#), "{out}");
}

/// Types blocks in an empty folder; the output.
fn type_in(blocks: &str, programs: &str) -> String {
    let dit = Path::new(env!("CARGO_BIN_EXE_dit"));
    let typed = blocks.replace("9443", &free_port().to_string()).replace("9444", &free_port().to_string());
    let dir = tempfile::tempdir().unwrap();
    let script = format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n{typed}");
    let path = format!("{}:{programs}:{}", dit.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["120", "bash", "-c", &script])
        .env("PATH", path)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let log = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    assert!(
        output.status.success(),
        "{out}\n{err}\n{}\n{}\n{}",
        log("router.log"),
        log("producer.log"),
        log("consumer.log")
    );
    assert!(!out.contains("20000001"), "a telephone number left: {out}");
    assert!(out.contains("V-2026-0001 (companies): receiving; "), "{out}");
    out.into_owned()
}

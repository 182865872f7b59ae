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
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn the_page_for_a_new_site_is_true() {
    let dit = Path::new(env!("CARGO_BIN_EXE_dit"));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/new-site.md")).unwrap();
    let typed =
        blocks(&page).replace("9443", &free_port().to_string()).replace("9444", &free_port().to_string());
    let dir = tempfile::tempdir().unwrap();
    let script = format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n{typed}");
    let path = format!("{}:{}", dit.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["120", "bash", "-c", &script])
        .env("PATH", path)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    assert!(
        output.status.success(),
        "{out}\n{err}\n{}\n{}\n{}",
        log("router.log"),
        log("producer.log"),
        log("consumer.log")
    );
    assert!(out.contains(r#"{"regcode":"40003000001","name":"SIA \"Ābele\"","municipality":"Ogres novads","opened":"2019-01-01"}"#)
        || out.contains(r#""opened":"2019-01-01""#), "{out}");
    assert!(!out.contains("20000001"), "a telephone number left: {out}");
    assert!(out.contains("V-2026-0001 (companies): receiving; "), "{out}");
}

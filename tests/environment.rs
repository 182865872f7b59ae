//! What a site's machine does to agents and routers: a disk that is full or read-only, the images damaged at any
//! byte, clocks that are off by an hour. Each ends in a named state and recovers; nothing is lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::collections::BTreeMap;

use daily_site::{arguments, register, rows_of, settled, site, site_of, start, take_day};
use parts::machine::{OwnDisk, SmallDisk, clock_off_by, with_disk};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use support::site::{Process, Site, eventually};

const PARTS: [&str; 3] = ["router", "producer", "consumer"];
/// Damages in the short form; `DIT_DAMAGES` asks for more.
const DAMAGES: u64 = 6;

fn wait(site: &Site, what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || Ok(holds())).unwrap_or_else(|e| {
        let logs: String = PARTS.iter().map(|part| format!("--- {part}\n{}\n", site.log(part))).collect();
        panic!("{e:#}\n{logs}")
    });
}

fn start_all(site: &Site) -> BTreeMap<&'static str, Process> {
    PARTS.iter().map(|part| (*part, start(site, part))).collect()
}

/// A part whose disk is full for a while.
fn a_disk_that_takes_nothing(part: &'static str, folder: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (dit, script) = (env!("CARGO_BIN_EXE_dit"), dir.path().join("dit.sh"));
    with_disk(dit, part, folder, OwnDisk::Small(16), &script).unwrap();
    let site = site_of(dir.path(), script.to_str().unwrap());
    let mut running = start_all(&site);
    let disk = SmallDisk::of(running[part].id(), &site.path(folder));
    let own = (part == "consumer").then(|| disk.path("A-1/register.ndjson"));
    let file = own.unwrap_or_else(|| site.path("consumer/A-1/register.ndjson"));
    let drop_day = |day: u64| {
        let (text, part) = register(day);
        site.drop_file(&format!("{day:04}.csv"), &text).unwrap();
        part
    };
    let expected = drop_day(0);
    wait(&site, "the first day", || rows_of(&file) == expected);
    disk.fill().unwrap();
    let expected = drop_day(1);
    wait(&site, "it says so", || site.log(part).contains("No space left on device"));
    disk.make_room().unwrap();
    wait(&site, "the replica equals the register's part", || rows_of(&file) == expected);
    for part in PARTS {
        running.remove(part).unwrap().kill().unwrap();
    }
}

/// A part that starts on a read-only disk: it says so, and continues once the disk is repaired.
fn a_disk_that_is_read_only(part: &'static str, folder: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (dit, script) = (env!("CARGO_BIN_EXE_dit"), dir.path().join("dit.sh"));
    // No part has this disk at first.
    with_disk(dit, "nothing", folder, OwnDisk::ReadOnly, &script).unwrap();
    let (site, mut running) = settled(site_of(dir.path(), script.to_str().unwrap()));
    running.remove(part).unwrap().kill().unwrap();
    with_disk(dit, part, folder, OwnDisk::ReadOnly, &script).unwrap();
    // A router ends before it listens, and then there is no process.
    let stuck = site.start(part, arguments(part));
    wait(&site, "it says so", || site.log(part).contains("Read-only file system"));
    drop(stuck);
    with_disk(dit, "nothing", folder, OwnDisk::ReadOnly, &script).unwrap();
    running.insert(part, start(&site, part));
    take_day(&site, 1);
}

#[test]
fn a_consumers_disk_is_full_or_read_only() {
    a_disk_that_takes_nothing("consumer", "consumer");
    a_disk_that_is_read_only("consumer", "consumer");
}

#[test]
fn a_producers_disk_is_full_or_read_only() {
    a_disk_that_takes_nothing("producer", "producer");
    a_disk_that_is_read_only("producer", "producer");
}

#[test]
fn a_routers_disk_is_full_or_read_only() {
    a_disk_that_takes_nothing("router", "log");
    a_disk_that_is_read_only("router", "log");
}

/// The youngest file of pages that is not empty.
fn youngest_pages(site: &Site) -> std::path::PathBuf {
    let files = std::fs::read_dir(site.path("producer/images/pages")).unwrap().map(|file| file.unwrap());
    let mut files: Vec<_> = files.filter(|file| file.metadata().unwrap().len() > 0).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    files.last().unwrap().path()
}

#[test]
fn images_damaged_at_any_bytes_are_rebuilt_or_were_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let (site, mut running) = settled(site);
    let cases = std::env::var("DIT_DAMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(DAMAGES);
    let mut runner = TestRunner::default();
    let damages = prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..64);
    for day in 1..=cases {
        running.remove("producer").unwrap().kill().unwrap();
        // The index, and a file of pages, in turns.
        let path = if day % 2 == 0 { site.path("producer/images/db") } else { youngest_pages(&site) };
        let mut bytes = std::fs::read(&path).unwrap();
        let mut at = Vec::new();
        for (index, flip) in damages.new_tree(&mut runner).unwrap().current() {
            *index.get_mut(&mut bytes) ^= flip;
            at.push((index.index(bytes.len()), flip));
        }
        println!("day {day}: of {} bytes of {}, flipped: {at:?}", bytes.len(), path.display());
        std::fs::write(&path, bytes).unwrap();
        running.insert("producer", start(&site, "producer"));
        take_day(&site, day);
    }
    assert!(running.get_mut("producer").unwrap().is_running());
    // A wrong image would have sent the router a before image that never was.
    assert!(!site.log("router").contains("before image"), "{}", site.log("router"));
}

#[test]
fn clocks_that_are_off_by_an_hour_change_nothing_that_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut site = site(dir.path());
    // The router's clock goes back by two hours between the first time and the second.
    for (day, clocks) in (0..).zip([["+1h", "+0", "-1h"], ["-1h", "+1h", "+0"]]) {
        let mut running = Vec::new();
        for (part, clock) in PARTS.iter().zip(clocks) {
            for (name, value) in clock_off_by(clock).unwrap() {
                site.set_environment(&name, &value);
            }
            running.push(start(&site, part));
        }
        take_day(&site, day);
        for (process, part) in running.into_iter().zip(PARTS) {
            assert!(process.stop().unwrap(), "{part}: {}", site.log(part));
        }
    }
    assert!(!site.log("consumer").contains("begins again"), "{}", site.log("consumer"));
    assert!(!site.log("producer").contains("reopens"), "{}", site.log("producer"));
}

#[test]
fn a_certificate_that_has_run_out_hides_no_status() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running) = settled(site(dir.path()));
    site.shorten_certificate("9000/main", std::time::Duration::ZERO).unwrap();
    let status = || {
        let mut dit = std::process::Command::new(env!("CARGO_BIN_EXE_dit"));
        let output =
            dit.args(["status", "--config", "consumer.toml"]).current_dir(dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    wait(&site, "the certificate has run out", || status().1.contains("the certificate was good until"));
    let (code, said) = status();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("A-1 (register): ") && said.contains(" rows; "), "{said}");
}

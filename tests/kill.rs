//! kill -9 of any process during load, and agents' folders that are lost, damaged or restored: no acknowledged
//! event is lost or repeated in a replica.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::collections::BTreeMap;

use daily_site::{SCHEMA, arguments, register, replica, settled, site, start, take_day};
use support::site::{Process, Site, eventually};

/// Kills in the short form; `DIT_KILLS` asks for more.
const KILLS: u64 = 9;

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
    // No repair has hidden an error: no replica began again, and no image had to be corrected.
    assert!(!site.log("router").contains("before image"), "{}", site.log("router"));
    assert!(!site.log("producer").contains("reopens"), "{}", site.log("producer"));
    assert!(!site.log("consumer").contains("begins again"), "{}", site.log("consumer"));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_producer_that_lost_its_whole_folder_reopens_and_leaves_no_row_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("producer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("producer")).unwrap();
    running.insert("producer", start(&site, "producer"));
    take_day(&site, 5);
    assert!(site.log("producer").contains("the channel is reopened"), "{}", site.log("producer"));
    let taken = std::fs::read_to_string(site.path("drop/taken/0005.csv.report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&taken).unwrap();
    assert!(
        report["counts"]["delete"].as_u64() > Some(0),
        "rows that went meanwhile are known from the state"
    );
}

#[test]
fn what_was_taken_and_lost_with_the_folder_is_taken_again_from_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("router").unwrap().kill().unwrap();
    let (text, part) = register(1);
    site.drop_file("0001.csv", &text).unwrap();
    eventually("the file is taken", || Ok(site.path("drop/taken/0001.csv").exists()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
    running.remove("producer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("producer")).unwrap();
    for part in ["router", "producer"] {
        running.insert(part, start(&site, part));
    }
    eventually("the replica equals the register's part", || Ok(replica(&site) == part))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
}

#[test]
fn damaged_images_are_set_aside_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("producer").unwrap().kill().unwrap();
    for file in ["db", "conf"] {
        let path = site.path("producer/images").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
    }
    running.insert("producer", start(&site, "producer"));
    take_day(&site, 3);
    assert!(site.log("producer").contains("set aside and rebuilt"), "{}", site.log("producer"));
}

#[test]
fn a_restored_folder_is_recognised_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("producer").unwrap().kill().unwrap();
    copy(&site.path("producer"), &site.path("backup"));
    running.insert("producer", start(&site, "producer"));
    take_day(&site, 1);
    running.remove("producer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("producer")).unwrap();
    copy(&site.path("backup"), &site.path("producer"));
    running.insert("producer", start(&site, "producer"));
    take_day(&site, 2);
    assert!(site.log("producer").contains("restored_folder"), "{}", site.log("producer"));
}

#[test]
fn a_running_producer_notices_that_the_routers_log_went_back() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("router").unwrap().kill().unwrap();
    copy(&site.path("log"), &site.path("backup"));
    running.insert("router", start(&site, "router"));
    take_day(&site, 1);
    running.remove("router").unwrap().kill().unwrap();
    // A consumer's copy is set aside, as docs/keeping.md says; the producer is left as it is.
    running.remove("consumer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("consumer")).unwrap();
    std::fs::remove_dir_all(site.path("log")).unwrap();
    copy(&site.path("backup"), &site.path("log"));
    for part in ["router", "consumer"] {
        running.insert(part, start(&site, part));
    }
    take_day(&site, 2);
    assert!(site.log("producer").contains("log_went_back"), "{}", site.log("producer"));
}

#[test]
fn a_provider_whose_schema_gains_a_column_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("producer").unwrap().kill().unwrap();
    let newer = SCHEMA.replace("]}", r#",{"name":"w","type":"string","default":""}]}"#);
    std::fs::write(site.path("schema.avsc"), newer).unwrap();
    running.insert("producer", start(&site, "producer"));
    let (text, part) = register(0);
    let wider = text.replace('\n', ",new\n").replacen(",new", ",w", 1);
    site.drop_file("wider.csv", &wider).unwrap();
    eventually("the file is taken", || Ok(site.path("drop/taken/wider.csv").exists()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
    let report = std::fs::read_to_string(site.path("drop/taken/wider.csv.report.json")).unwrap();
    let counts = serde_json::from_str::<serde_json::Value>(&report).unwrap()["counts"].clone();
    let rows = text.lines().count() - 1;
    assert_eq!(
        (&counts["update"], &counts["delete"]),
        (&rows.into(), &0.into()),
        "every row has the new column"
    );
    take_day(&site, 2);
    assert!(!replica(&site).is_empty() && !part.is_empty());
    assert!(!site.log("router").contains("before image"), "{}", site.log("router"));
}

#[test]
fn a_stop_is_a_drain_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (site, running) = settled(site(dir.path()));
    for (part, process) in running {
        assert!(process.stop().unwrap(), "{part} did not end well: {}", site.log(part));
    }
    assert!(
        site.path("log/dit.register.log/0/00000000000000000000.idx").exists(),
        "nothing to scan next time"
    );
    let _running = ["router", "producer", "consumer"].map(|part| start(&site, part));
    take_day(&site, 2);
    assert!(!site.log("producer").contains("reopens"), "{}", site.log("producer"));
}

#[test]
fn damaged_segments_of_a_replica_are_set_aside_and_received_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    // The first of two days' blocks is damaged: damage in the last is a torn write, which is cut off.
    take_day(&site, 1);
    running.remove("consumer").unwrap().kill().unwrap();
    let path = site.path("consumer/A-1/segments/00000000000000000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let early = bytes.len() / 4;
    bytes[early] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
    running.insert("consumer", start(&site, "consumer"));
    take_day(&site, 4);
    assert!(site.log("consumer").contains("set aside and received anew"), "{}", site.log("consumer"));
}

#[test]
fn a_file_that_the_guard_holds_is_taken_on_a_persons_word() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("producer").unwrap().kill().unwrap();
    let config = site.path("producer.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (without, _) = text.split_once("[guard]").unwrap();
    std::fs::write(&config, without).unwrap();
    running.insert("producer", start(&site, "producer"));
    let (text, _) = register(0);
    let few: String = text.lines().take(5).map(|line| format!("{line}\n")).collect();
    site.drop_file("few.csv", &few).unwrap();
    let at = |place: &str| site.path("drop").join(place).join("few.csv");
    eventually("the file is held", || Ok(at("held").exists()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
    let before = replica(&site);
    let accepted = std::process::Command::new(env!("CARGO_BIN_EXE_dit"))
        .args(["producer", "accept", "--config", config.to_str().unwrap(), "few.csv"])
        .status();
    assert!(accepted.unwrap().success());
    eventually("the replica follows", || Ok(replica(&site).len() < 5))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
    assert!(before.len() > 5 && at("taken").exists());
}

#[test]
fn a_consumer_that_lost_its_folder_begins_again_from_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    running.remove("consumer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("consumer")).unwrap();
    running.insert("consumer", start(&site, "consumer"));
    take_day(&site, 4);
}

#[test]
fn a_new_empty_log_empties_no_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    let before = replica(&site);
    running.remove("router").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("log")).unwrap();
    running.insert("router", start(&site, "router"));
    eventually("the consumer has heard", || Ok(site.log("consumer").contains("keeps its replica as it is")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("consumer")));
    assert!(site.log("consumer").contains("register_incomplete"), "{}", site.log("consumer"));
    // It continues when the provider has sent its register into the new log, and not before.
    running.remove("producer").unwrap().kill().unwrap();
    std::fs::remove_dir_all(site.path("producer")).unwrap();
    running.insert("producer", start(&site, "producer"));
    assert_eq!(replica(&site), before);
    take_day(&site, 1);
    assert!(site.log("consumer").contains("begins again from the state"), "{}", site.log("consumer"));
}

/// Folders of a router, a producer and a consumer, as each version of the formats left them.
const FORMATS: [&str; 1] = ["v4"];
/// Versions whose log is not read: events were no blocks, or the state was none.
const UNREAD: [&str; 3] = ["v1", "v2", "v3"];

fn formats(version: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(version)
}

fn drop_and_wait(site: &Site, name: &str, text: &str, expected: &[(&str, &str)]) {
    site.drop_file(name, text).unwrap();
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    eventually("the replica follows", || Ok(replica(site) == expected)).unwrap_or_else(|e| {
        panic!("{e:#}\n{}\n{}\n{}", site.log("router"), site.log("producer"), site.log("consumer"))
    });
}

#[test]
fn folders_that_each_version_left_are_opened() {
    FORMATS.iter().for_each(|version| open_folders_of(version));
}

fn open_folders_of(version: &str) {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    for part in ["log", "producer", "consumer"] {
        copy(&formats(version).join(part), &site.path(part));
    }
    let mut running: Vec<Process> = ["router", "producer", "consumer"].map(|part| start(&site, part)).into();
    drop_and_wait(&site, "2.csv", "k,t,v\n1,R,z\n3,R,c\n", &[("1", "z"), ("3", "c")]);
    let said = site.log("producer");
    assert!(!said.contains("reopens"), "the old outbox goes on: {said}");
    let report = std::fs::read_to_string(site.path("drop/taken/2.csv.report.json")).unwrap();
    let counts = serde_json::from_str::<serde_json::Value>(&report).unwrap()["counts"].clone();
    assert_eq!((&counts["create"], &counts["update"], &counts["delete"]), (&1.into(), &1.into(), &2.into()));
    assert!(running.iter_mut().all(Process::is_running));
}

#[test]
fn earlier_logs_are_refused_by_name_and_left_as_they_are_and_replicas_are_kept() {
    for version in UNREAD {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        a_log_is_refused(&site, version);
        // With a new log, the producer's folder belongs to another one, and says what to do.
        std::fs::remove_dir_all(site.path("log")).unwrap();
        for part in ["producer", "consumer"] {
            copy(&formats(version).join(part), &site.path(part));
        }
        let kept = replica(&site);
        let mut running: Vec<Process> =
            ["router", "producer", "consumer"].map(|part| start(&site, part)).into();
        let told = eventually("the agent refuses its folder", || {
            Ok(site.log("producer").contains("set the folder aside"))
        });
        told.unwrap_or_else(|e| panic!("{version}: {e:#}\n{}", site.log("producer")));
        drop(running.remove(1));
        // The page's last steps: the folder is set aside, and the whole register comes again.
        std::fs::remove_dir_all(site.path("producer")).unwrap();
        assert!(!kept.is_empty() && replica(&site) == kept, "{version}: the replica is kept until then");
        running.push(start(&site, "producer"));
        drop_and_wait(&site, "2.csv", "k,t,v\n1,R,z\n3,R,c\n", &[("1", "z"), ("3", "c")]);
        assert!(running.iter_mut().all(Process::is_running));
    }
}

fn a_log_is_refused(site: &Site, version: &str) {
    const REFUSED: &str = "this binary reads formats from 4 on";
    copy(&formats(version).join("log"), &site.path("log"));
    let control = "log/dit.control/0/00000000000000000000.seg";
    let before = std::fs::read(site.path(control)).unwrap();
    assert!(site.start("router", arguments("router")).is_err(), "a router begins on the log of {version}");
    assert!(site.log("router").contains(REFUSED), "{}", site.log("router"));
    assert_eq!(std::fs::read(site.path(control)).unwrap(), before);
}

/// Writes the folders of this version: by hand, and only when a format has changed, as the last of [`FORMATS`].
#[test]
#[ignore = "writes the repository's own folders"]
fn write_the_folders_of_this_version() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let running = ["router", "producer", "consumer"].map(|part| start(&site, part));
    drop_and_wait(&site, "1.csv", "k,t,v\n1,R,a\n2,R,b\n4,J,d\n", &[("1", "a"), ("2", "b")]);
    running.into_iter().for_each(|process| assert!(process.stop().unwrap()));
    // The images can be rebuilt, and their index is in sled's own format.
    std::fs::remove_dir_all(site.path("producer/images")).unwrap();
    for part in ["log", "producer", "consumer"] {
        copy(&site.path(part), &formats(FORMATS[FORMATS.len() - 1]).join(part));
    }
}

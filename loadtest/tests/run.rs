//! Small forms of the loads on a real Kafka: everything arrives, the report is written, a wrong file is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;
use std::process::{Command, Output};

use parts::kafka::Kafka;

fn run(dir: &Path, scenario: &str) -> Output {
    let file = dir.join("scenario.toml");
    std::fs::write(&file, scenario).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dit-loadtest"));
    command.arg("run").arg(&file).arg("--out").arg(dir.join("out")).output().unwrap()
}

fn measured(name: &str, load: &str) -> serde_json::Value {
    measured_against("raw", name, load)
}

fn measured_against(other: &str, name: &str, load: &str) -> serde_json::Value {
    measured_with(&format!("against = \"{other}\""), name, load)
}

fn measured_with(head: &str, name: &str, load: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let brokers = Kafka::shared(1).unwrap();
    let text = format!(
        "name = \"{name}\"\nabout = \"small\"\nrounds = 1\nbrokers = \"{brokers}\"\n{head}\n[load]\n{load}"
    );
    let said = run(dir.path(), &text);
    let words = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{words}");
    let page = std::fs::read_to_string(dir.path().join(format!("out/{name}.html"))).unwrap();
    assert!(page.contains("<polyline") && page.contains("memory"), "{page}");
    assert!(words.contains("every event arrived"), "{words}");
    let outcome = std::fs::read_to_string(dir.path().join(format!("out/{name}.json"))).unwrap();
    serde_json::from_str(&outcome).unwrap()
}

#[test]
fn a_file_goes_through_and_every_process_is_accounted_for() {
    let outcome = measured("pipe", "kind = \"file\"\nevents = 3000\n");
    let round = &outcome["rounds"][0];
    for side in ["ours", "other"] {
        assert_eq!(round[side]["events"], 3_000, "{outcome:#}");
        let course = round[side]["course"].as_array().unwrap();
        assert_eq!(course.last().unwrap()[1], 3_000);
        for process in round[side]["processes"].as_array().unwrap() {
            assert!(process["max_rss_bytes"].as_u64().unwrap() > 1_000_000, "{process}");
        }
    }
    assert!(round["ours"]["processes"].as_array().unwrap().len() == 3);
    assert!(outcome["summary"]["rate_ratio"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_embedded_log_is_measured_beside_kafka_and_the_waits_of_traced_events_are_named() {
    let load = "kind = \"outbox\"\nevents = 500\n[watched]\ntraced = 1.0\n";
    let outcome = measured_with("against = \"kafka\"\nlog = \"embedded\"", "embedded", load);
    let names = |side: &str| names(&outcome["rounds"][0][side]).join(", ");
    assert_eq!(outcome["rounds"][0]["ours"]["events"], 500, "{outcome:#}");
    assert_eq!(names("ours"), names("other"), "the same processes");
    let waits = outcome["waits"].as_array().unwrap();
    let of =
        |name: &str| waits.iter().find(|wait| wait["name"] == name).map(|wait| wait["p50_micros"].as_i64());
    assert!(of("sync of the outbox").flatten().unwrap() > 0, "{waits:?}");
    assert!(of("the whole way").flatten().unwrap() > 0, "{waits:?}");
}

fn names(side: &serde_json::Value) -> Vec<&str> {
    side["processes"].as_array().unwrap().iter().map(|process| process["name"].as_str().unwrap()).collect()
}

#[test]
fn a_full_outbox_a_file_by_itself_and_a_late_joiner_are_measured() {
    for (kind, ours, other) in [
        (
            "outbox",
            vec!["producer agent", "router", "consumer agents"],
            vec!["raw producer", "raw consumers"],
        ),
        ("intake", vec!["producer agent"], vec!["raw reader"]),
        ("replay", vec!["router", "late joiner"], vec!["raw consumers"]),
        ("replay\"\nfrom = \"earliest", vec!["router", "late joiner"], vec!["raw consumers"]),
    ] {
        let name = if kind.contains("earliest") { "earliest" } else { kind };
        let outcome = measured(name, &format!("kind = \"{kind}\"\nevents = 2000\n"));
        let round = &outcome["rounds"][0];
        assert_eq!((names(&round["ours"]), names(&round["other"])), (ours, other));
        for side in ["ours", "other"] {
            assert_eq!(round[side]["events"], 2_000, "{outcome:#}");
            assert!(round[side]["seconds"].as_f64().unwrap() > 0.0, "{outcome:#}");
        }
    }
}

#[test]
fn each_municipality_gets_its_own_and_nothing_is_counted_twice() {
    let outcome = measured("fan-out", "kind = \"file\"\nevents = 1000\nmunicipalities = 4\n");
    assert_eq!(outcome["rounds"][0]["ours"]["events"], 1_000, "{outcome:#}");
    assert_eq!(outcome["rounds"][0]["other"]["events"], 1_000, "{outcome:#}");
}

#[test]
fn paced_changes_have_latencies_from_when_they_were_due() {
    let outcome = measured("latency", "kind = \"paced\"\nrate = 200\nseconds = 2\ntogether = 10\n");
    for side in ["ours", "other"] {
        let curve = outcome["rounds"][0][side]["latencies"].as_array().unwrap();
        let micros: Vec<u64> = curve.iter().map(|point| point[1].as_u64().unwrap()).collect();
        assert!(!micros.is_empty() && micros.is_sorted(), "{outcome:#}");
        // The first of ten waits for the last: 45 ms at 200 a second.
        assert!(micros.last().unwrap() > &45_000, "{outcome:#}");
        // Nothing is counted before two seconds' worth of events were due.
        assert!(outcome["rounds"][0][side]["seconds"].as_f64().unwrap() > 1.9, "{outcome:#}");
    }
    assert!(outcome["summary"]["added_p50_micros"].is_number());
}

#[test]
fn who_idles_stalls_or_trickles_beside_is_not_counted() {
    let load = "kind = \"paced\"\nrate = 200\nseconds = 2\ntogether = 10\nwarm_up = 1\n";
    let beside = "[beside]\nidle = 5\nstalled = 1\ntrickling = 1\n";
    let outcome = measured_against("alone", "beside", &format!("{load}{beside}"));
    for side in ["ours", "other"] {
        assert_eq!(outcome["rounds"][0][side]["events"], 400, "{outcome:#}");
        let curve = outcome["rounds"][0][side]["latencies"].as_array().unwrap();
        assert!(!curve.is_empty(), "{outcome:#}");
    }
    assert!(
        outcome["summary"]["p99_ratio"].is_number() && outcome["summary"]["added_router_bytes"].is_number()
    );
}

#[test]
fn a_burst_elsewhere_and_a_storm_of_another_routers_streams_are_measured_while_they_last() {
    let load = "kind = \"paced\"\nrate = 50\nseconds = 15\ntogether = 1\nwarm_up = 1\n";
    for (name, disturbance) in [
        ("burst", "[disturbance]\nkind = \"burst\"\nevents = 20_000\n"),
        ("storm", "[disturbance]\nkind = \"storm\"\nstreams = 5\n"),
    ] {
        let outcome = measured_against("quiet", name, &format!("{load}{disturbance}"));
        let round = &outcome["rounds"][0];
        for side in ["ours", "other"] {
            assert_eq!(round[side]["events"], 750, "{outcome:#}");
            assert!(!round[side]["latencies"].as_array().unwrap().is_empty(), "{outcome:#}");
        }
        assert!(round["ours"]["disturbed"].as_f64().unwrap() > 0.0, "{outcome:#}");
        assert!(round["other"]["disturbed"].is_null(), "{outcome:#}");
    }
}

#[test]
fn a_wrong_scenario_is_refused_by_its_place() {
    let refused = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let said = run(dir.path(), text);
        assert!(!said.status.success());
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    let head = "name = \"x\"\nabout = \"x\"\n";
    let load = "[load]\nkind = \"file\"\nevents = 1\n";
    let said = refused(&format!("{head}round = 1\n{load}"));
    assert!(said.contains("scenario.toml") && said.contains("unknown field `round`"), "{said}");
    let said = refused(&format!("{head}[load]\nkind = \"paced\"\nrate = 10\nseconds = 1\ntogether = 3\n"));
    assert!(said.contains("load.together divides load.rate"), "{said}");
    let said = refused(&format!("{head}[watched]\ntraced = 7.5\n{load}"));
    assert!(said.contains("between 0 and 1"), "{said}");
    let said = refused(&format!("{head}log = \"embedded\"\n{load}"));
    assert!(said.contains("go together"), "{said}");
    let said = refused(&format!("{head}against = \"quiet\"\n{load}"));
    assert!(said.contains("[disturbance]") && said.contains("go together"), "{said}");
    let burst = "[disturbance]\nkind = \"burst\"\nevents = 1\n";
    let said = refused(&format!("{head}against = \"quiet\"\n{load}{burst}"));
    assert!(said.contains("needs an even load"), "{said}");
    let said = refused(&format!("name = \"../x\"\nabout = \"x\"\n{load}"));
    assert!(said.contains("it names the report's files"), "{said}");
}

//! What a running network shows to monitoring: metrics that Prometheus takes, and health that says what is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use daily_site::{replica, settled, site, start, take_day};
use platform::identity::Identity;
use platform::pki::{Authority, Subject};
use schemas::promise::Promise;
use support::site::{Site, eventually};
use support::watcher;

fn identity() -> Identity {
    platform::identity::install_crypto();
    let subject = Subject::Operator("o".to_owned());
    Authority::new("test.dit").unwrap().identity(&subject).unwrap()
}

/// The public lists: a series that is added, removed or reworded is a change for every dashboard. `DIT_WRITE_LISTS=1`
/// writes them anew.
#[test]
fn every_series_is_in_its_list() {
    let identity = identity();
    let router = router::metrics::Metrics::new(&identity, Vec::new()).unwrap().catalogue();
    let producer = producer_agent::metrics::Metrics::new(&identity, Vec::new()).unwrap().catalogue();
    let consumer = consumer_agent::metrics::Metrics::new(&identity, Vec::new()).unwrap().catalogue();
    for (name, found) in [("router", router), ("producer", producer), ("consumer", consumer)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/metrics/{name}.txt"));
        if std::env::var_os("DIT_WRITE_LISTS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let listed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(listed, found, "{}: write it anew with DIT_WRITE_LISTS=1", path.display());
    }
}

fn promtool(arguments: &[&str]) {
    let ran = Command::new("promtool").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let said = ran.unwrap_or_else(|e| panic!("promtool (Debian: prometheus): {e}"));
    let words = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{words}");
}

/// Each alert fires for its fault and is silent otherwise, uses existing series, and has its page.
#[test]
fn every_alert_has_its_cases_and_its_page() {
    promtool(&["check", "rules", "helm/dit/files/alerts.yaml"]);
    promtool(&["test", "rules", "helm/dit/tests/alerts.yaml"]);
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (alerts, cases, pages) =
        (read("helm/dit/files/alerts.yaml"), read("helm/dit/tests/alerts.yaml"), read("docs/runbook.md"));
    let lists: String =
        ["router", "producer", "consumer"].map(|name| read(&format!("docs/metrics/{name}.txt"))).concat();
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for name in alerts.split(|letter| !is_word(letter)).filter(|word| word.starts_with("dit_")) {
        assert!(lists.lines().any(|line| line.starts_with(&format!("{name} "))), "no process has {name}");
    }
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(names.len(), 12);
    for name in names {
        let case = format!("alertname: {name}");
        let fires = format!("{case}\n        exp_alerts:");
        let is_silent = format!("{case}}}");
        assert!(cases.contains(&fires) && cases.contains(&is_silent), "{name}: a firing and a silent case");
        assert!(pages.contains(&format!("\n## {name}\n")), "{name} has no section in docs/runbook.md");
        assert!(
            alerts.contains(&format!("docs/runbook.md#{}", name.to_lowercase())),
            "{name} names its page"
        );
    }
}

/// The answer of a process to a plain request: its status and its body.
fn get(site: &Site, process: &str, path: &str) -> (u16, String) {
    watcher::get(&format!("http://{}{path}", site.observed(process).unwrap()), &[]).unwrap()
}

/// The value of a series by its name and labels as written in the text.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

/// Prometheus's own check of names, types and help.
fn promtool_likes(text: &str) {
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = tool.spawn().unwrap_or_else(|e| panic!("promtool (Debian: prometheus): {e}"));
    running.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = running.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && words.is_empty(), "{words}");
}

/// The failed checks of a process, each with its fault.
fn faults(site: &Site, process: &str) -> BTreeMap<String, String> {
    let (status, body) = get(site, process, "/readyz");
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["ready"].as_bool().unwrap(), status == 200, "{body}");
    let checks = told["checks"].as_array().unwrap().iter();
    let faults = checks.filter(|check| check["ok"] == false);
    let text = |json: &serde_json::Value| json.as_str().unwrap().to_owned();
    faults.map(|check| (text(&check["check"]), text(&check["fault"]))).collect()
}

#[test]
fn a_network_tells_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running) = settled(site(dir.path()));
    let rows = replica(&site).len();
    take_day(&site, 1);
    let told: BTreeMap<&str, String> = ["router", "producer", "consumer"]
        .into_iter()
        .map(|process| {
            let (status, text) = get(&site, process, "/metrics");
            assert_eq!(status, 200);
            promtool_likes(&text);
            for promise in Promise::ALL.map(Promise::as_str) {
                let series = format!("dit_promises_broken_total{{promise=\"{promise}\"}}");
                assert_eq!(value(&text, &series), 0.0, "{process}: {promise}");
            }
            assert!(value(&text, "dit_certificate_expiry_timestamp_seconds") > 1.0e9);
            assert!(value(&text, "process_resident_memory_bytes") > 1.0e6);
            (process, text)
        })
        .collect();
    let agreement = "agreement=\"A-1\"";
    let of = |reason: &str| {
        let by_router = format!(
            "dit_router_deliveries_total{{{agreement},channel=\"register\",consumer=\"9000\",reason=\"{reason}\"}}"
        );
        let by_consumer = format!("dit_consumer_deliveries_total{{{agreement},reason=\"{reason}\"}}");
        (value(&told["router"], &by_router), value(&told["consumer"], &by_consumer))
    };
    for reason in ["change", "enter", "leave"] {
        let (given, taken) = of(reason);
        assert!(given > 0.0 && given == taken, "{reason}: {given} given, {taken} taken");
    }
    let labels = "agreement=\"A-1\",channel=\"register\",consumer=\"9000\"";
    let router = &told["router"];
    assert_eq!(value(router, &format!("dit_router_streams_open{{{labels}}}")), 1.0);
    assert_eq!(value(router, &format!("dit_router_agreement_active{{{labels}}}")), 1.0);
    assert!(value(router, &format!("dit_router_events_denied_total{{{labels}}}")) > 0.0);
    // The agreement names two of three fields.
    assert!(value(router, &format!("dit_router_events_trimmed_total{{{labels}}}")) > 0.0);
    assert!(value(router, &format!("dit_router_handed_over_bytes_total{{{labels}}}")) > 0.0);
    let batches = "dit_router_http_requests_total{method=\"POST\",route=\"/v1/channels/{channel}/partitions/{partition}/batches\",status=\"200\"}";
    assert!(value(router, batches) >= 2.0);
    assert!(
        value(
            router,
            "dit_router_source_freshness_timestamp_seconds{channel=\"register\",provider=\"4000\"}"
        ) > 1.0e9
    );
    let changes: f64 = ["create", "update", "delete"]
        .map(|op| {
            value(&told["producer"], &format!("dit_producer_changes_total{{op=\"{op}\",source=\"file\"}}"))
        })
        .iter()
        .sum();
    assert_eq!(
        changes,
        value(router, "dit_router_records_read_total{channel=\"register\",meaning=\"change\"}")
    );
    assert_eq!(value(&told["producer"], "dit_producer_outbox_waiting_entries"), 0.0);
    assert_eq!(value(&told["producer"], "dit_producer_connected"), 1.0);
    let present = value(&told["consumer"], &format!("dit_consumer_replica_rows{{{agreement}}}"));
    assert!(present > 0.0 && rows > 0);
}

#[test]
fn readiness_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = settled(site(dir.path()));
    for process in ["router", "producer", "consumer"] {
        assert_eq!(get(&site, process, "/livez").0, 200);
        assert_eq!(faults(&site, process), BTreeMap::new(), "{process}");
    }
    running.remove("router").unwrap().kill().unwrap();
    let (text, _) = daily_site::register(1);
    site.drop_file("0001.csv", &text).unwrap();
    eventually("the producer says that the router is away", || {
        Ok(faults(&site, "producer").get("router").is_some_and(|why| why.contains("waits in the outbox")))
    })
    .unwrap();
    eventually("the consumer says so", || {
        Ok(faults(&site, "consumer").get("agreements").is_some_and(|why| why.starts_with("A-1: connecting")))
    })
    .unwrap();
    eventually("entries wait", || {
        let (_, text) = get(&site, "producer", "/metrics");
        let waits = value(&text, "dit_producer_outbox_waiting_entries") > 0.0;
        Ok(waits && value(&text, "dit_producer_outbox_stalled_seconds") > 0.0)
    })
    .unwrap();
    assert_eq!(get(&site, "producer", "/livez").0, 200, "alive, though not of use");
    running.insert("router", start(&site, "router"));
    take_day(&site, 2);
    for process in ["router", "producer", "consumer"] {
        assert_eq!(faults(&site, process), BTreeMap::new(), "{process}");
    }
}

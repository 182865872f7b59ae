//! Each alert fires for its fault, planted from outside, on a real Prometheus that scrapes a real network on Kafka, and
//! is silent otherwise.
//!
//! The alerts are the chart's own with less patience: hours become seconds here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use daily_site::{SCHEMA, register, settled, site, start, take_day};
use parts::kafka::Kafka;
use parts::prometheus::Prometheus;
use schemas::avro::binary::put_string;
use schemas::change::Op;
use schemas::ids::Epoch;
use schemas::partition::of_key;
use support::publisher::{Publisher, datum};
use support::site::{Site, eventually};
use support::watcher;

/// Waits that are too long for a test, and what replaces them.
const SOONER: [(&str, &str); 3] = [("26 * 3600", "45"), ("> 900", "> 3"), ("for: ", "for: 1s # ")];

/// How long nothing else may fire: several scrapes and evaluations.
const WHILE: Duration = Duration::from_secs(3);

fn impatient_alerts() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/dit/files/alerts.yaml");
    let mut alerts = std::fs::read_to_string(path).unwrap();
    for (patient, sooner) in SOONER {
        assert!(alerts.contains(patient), "{patient} is not in the alerts any more");
        alerts = alerts.replace(patient, sooner);
    }
    alerts
}

fn ask(prometheus: &Prometheus, query: &str) -> Vec<serde_json::Value> {
    let query = [("query", query)];
    let (_, body) = watcher::get(&format!("{}/api/v1/query", prometheus.url()), &query).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    answer["data"]["result"].as_array().unwrap().clone()
}

fn firing(prometheus: &Prometheus) -> BTreeSet<String> {
    let results = ask(prometheus, "ALERTS{alertstate=\"firing\"}");
    results.iter().map(|result| result["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
}

/// Waits until exactly these alerts fire.
fn until_firing(prometheus: &Prometheus, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().chain(&DECLARED).map(ToString::to_string).collect();
    let mut last = BTreeSet::new();
    let mut held = Instant::now();
    eventually("exactly the expected alerts fire for a while", || {
        last = firing(prometheus);
        if last != expected {
            held = Instant::now();
        }
        Ok(held.elapsed() > WHILE)
    })
    .unwrap_or_else(|e| panic!("{e:#}\nexpected {expected:?}, firing {last:?}"));
}

/// A register that is too large for any buffer.
fn large_register() -> String {
    let mut text = "k,t,v\n".to_owned();
    let value = "x".repeat(30_000);
    for row in 0..400 {
        writeln!(text, "{row},R,{row}{value}").unwrap();
    }
    text
}

/// An intruder with the provider's certificate sends a change whose before image is made up.
fn intrude(site: &Site) {
    let row = |key: &str, value: &str| {
        let mut out = Vec::new();
        for text in [key, "R", value] {
            put_string(&mut out, text);
        }
        out
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = site.agent("4000/main").unwrap();
        let mut intruder = Publisher::new(client, Epoch::new([9; 16])).of(SCHEMA);
        let status = intruder.open(None).await.unwrap();
        intruder.open(status.counted.map(|counted| counted.epoch)).await.unwrap();
        let key =
            (0..).map(|number| number.to_string()).find(|key| of_key(key.as_bytes(), 3).get() == 0).unwrap();
        let change = datum(Op::Update, &key, Some(&row(&key, "made up")), Some(&row(&key, "later")));
        intruder.publish(&[change]).await.unwrap();
    });
}

/// The alerts from the beginning: for an invalid declared file, and for an agreement that ends in ten days.
const DECLARED: [&str; 2] = ["DitDeclarationSkipped", "DitAgreementEnding"];

fn plant_declarations(site: &Site) {
    std::fs::write(site.path("declared/agreements/wrong.json"), "{").unwrap();
    let path = site.path("declared/agreements/a-1.json");
    let mut agreement: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let in_ten_days = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(240);
    agreement["valid_to"] = in_ten_days.to_string().into();
    std::fs::write(&path, agreement.to_string()).unwrap();
}

#[test]
fn each_alert_fires_for_its_fault_and_is_silent_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    site.on_kafka(&Kafka::shared(1).unwrap()).unwrap();
    plant_declarations(&site);
    let (site, mut running) = settled(site);
    let jobs = ["router", "producer", "consumer"].map(|name| (name, site.observed(name).unwrap()));
    let prometheus = Prometheus::start(&jobs, Some(&impatient_alerts())).unwrap();
    eventually("all three are scraped", || Ok(ask(&prometheus, "up == 1").len() == 3)).unwrap();
    for day in 1..4 {
        take_day(&site, day);
    }
    until_firing(&prometheus, &[]);

    let (text, _) = register(4);
    site.drop_file("parked.csv", &format!("{text}0,R,twice\n0,R,again\n")).unwrap();
    until_firing(&prometheus, &["DitParkedGrowing"]);

    site.drop_file("partial.csv", &format!("{text}no row\n")).unwrap();
    until_firing(&prometheus, &["DitParkedGrowing", "DitFileNeedsAPerson"]);
    site.drop_file("whole.csv", &text).unwrap();
    until_firing(&prometheus, &["DitParkedGrowing"]);

    running.remove("consumer").unwrap().kill().unwrap();
    until_firing(&prometheus, &["DitParkedGrowing", "DitAgentSilent"]);
    site.shorten_certificate("9000/main", Duration::from_hours(24 * 10)).unwrap();
    running.insert("consumer", start(&site, "consumer"));
    until_firing(&prometheus, &["DitParkedGrowing", "DitCertificateEnding"]);

    running["consumer"].signal("-STOP").unwrap();
    site.drop_file("large.csv", &large_register()).unwrap();
    // A stopped process reports nothing of its certificate.
    until_firing(&prometheus, &["DitParkedGrowing", "DitConsumerLagging"]);
    let lasting = ["DitParkedGrowing", "DitCertificateEnding"];
    running["consumer"].signal("-CONT").unwrap();
    until_firing(&prometheus, &lasting);

    take_day(&site, 6);
    running.remove("producer").unwrap().kill().unwrap();
    intrude(&site);
    until_firing(&prometheus, &[lasting[0], lasting[1], "DitPromiseBroken"]);
    // No agent looks at the source any more; rows that were parked a quarter of an hour ago still count.
    until_firing(&prometheus, &[lasting[0], lasting[1], "DitPromiseBroken", "DitSourceStale"]);
}

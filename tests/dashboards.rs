//! The dashboards on a real Prometheus that scrapes a real network on Kafka: every panel has data, and says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daily_site::{settled, site, take_day};
use parts::kafka::Kafka;
use parts::prometheus::Prometheus;
use platform::client::send_json;
use serde_json::Value;
use support::site::{Site, eventually};
use support::watcher;

/// Panels that are empty while nothing is wrong.
const MAY_BE_EMPTY: [&str; 2] = ["Agreements without a stream", "Refusals and failures"];

const DASHBOARDS: [&str; 2] = ["network-overview", "agreement-participant"];
/// Names the folder that keeps the panels' answers, for `tests/pictures` to draw.
const ANSWERS: &str = "DIT_DASHBOARD_ANSWERS";
/// How long a network is watched for its picture: some forty points across a panel.
const WATCHED: Duration = Duration::from_secs(120);

/// One panel's query, as Grafana would ask it for everything.
struct PanelQuery {
    panel: String,
    query: String,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("helm/dit/dashboards/{name}.json"))).unwrap()
}

/// A dashboard's queries. Every panel must have what a person needs: a title, a unit, what to do.
fn queries(name: &str) -> Vec<PanelQuery> {
    let dashboard = dashboard(name);
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let mut queries = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap().to_owned();
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        let words = panel["description"].as_str().unwrap_or_default();
        assert!(!title.is_empty() && !unit.is_empty() && words.len() > 40, "{name}: {title}");
        for target in panel["targets"].as_array().unwrap() {
            let query = of_everybody(target["expr"].as_str().unwrap(), "1m");
            queries.push(PanelQuery { panel: title.clone(), query });
        }
    }
    queries
}

/// A query as Grafana would ask it for all consumers, with rates over this window.
fn of_everybody(expr: &str, window: &str) -> String {
    let query =
        expr.replace("$__rate_interval", window).replace("$agreement", ".*").replace("$consumer", ".*");
    // `$1` in label_replace is Prometheus' own.
    assert!(!query.replace("$1", "").contains('$'), "a variable that nobody sets: {query}");
    query
}

/// How many finite values a query gives.
fn ask(prometheus: &Prometheus, query: &str) -> anyhow::Result<usize> {
    let url = format!("{}/api/v1/query", prometheus.url());
    let answer: Value = serde_json::from_str(&watcher::get(&url, &[("query", query)])?.1)?;
    anyhow::ensure!(answer["status"] == "success", "{query}: {}", answer["error"]);
    let results = answer["data"]["result"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_finite = |result: &&Value| {
        let value = result["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        value.is_some_and(f64::is_finite)
    };
    Ok(results.iter().filter(is_finite).count())
}

/// A panel's data to draw: by target, Prometheus' results of now or of all the time that was watched.
fn drawn(prometheus: &Prometheus, panel: &Value, from: u64, to: u64) -> Vec<Value> {
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let answers = targets.iter().map(|target| {
        let query = of_everybody(target["expr"].as_str().unwrap(), "10s");
        let from = from.to_string();
        let to = to.to_string();
        let (path, span) = if target["instant"] == true {
            ("query", vec![("time", to.as_str())])
        } else {
            ("query_range", vec![("start", from.as_str()), ("end", to.as_str()), ("step", "3s")])
        };
        let asked = [vec![("query", query.as_str())], span].concat();
        let url = format!("{}/api/v1/{path}", prometheus.url());
        let answer: Value = serde_json::from_str(&watcher::get(&url, &asked).unwrap().1).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {}", answer["error"]);
        answer["data"]["result"].clone()
    });
    answers.collect()
}

/// Waits until Prometheus has scraped the stream as open: a change of the agreement closes it for a moment.
fn seen_open(prometheus: &Prometheus) {
    let streams = "sum(dit_router_streams_open) > 0";
    eventually("the stream is open, as Prometheus sees it", || Ok(ask(prometheus, streams)? > 0)).unwrap();
}

/// Watches the network for a while, then keeps each panel's answers.
fn keep_answers(prometheus: &Prometheus, dir: &Path, mut live: impl FnMut()) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let from = now();
    while now() < from + WATCHED.as_secs() {
        live();
    }
    seen_open(prometheus);
    let until = now() + 1;
    std::fs::create_dir_all(dir).unwrap();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let panels = dashboard["panels"].as_array().unwrap().iter();
        let answers: serde_json::Map<_, _> = panels
            .map(|panel| (panel["id"].to_string(), drawn(prometheus, panel, from, until).into()))
            .collect();
        let kept = serde_json::json!({"dashboard": dashboard, "answers": answers, "from": from, "to": until});
        std::fs::write(dir.join(format!("{name}.json")), kept.to_string()).unwrap();
    }
}

/// An operator's change, whose acknowledgement is measured.
fn change_agreement(site: &Site, status: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = serde_json::json!({"status": status, "reason": "test"});
    let operator = site.operator().unwrap();
    runtime.block_on(async {
        let asked = send_json::<Value>(operator.post("/v1/agreements/A-1/status").json(&body));
        asked.await.unwrap();
    });
}

#[test]
fn every_panel_has_data_from_a_running_network() {
    let kafka = Kafka::start(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    site.on_kafka(&kafka.bootstrap()).unwrap();
    let (site, _running) = settled(site);
    let jobs = ["router", "producer", "consumer"].map(|name| (name, site.observed(name).unwrap()));
    let jobs = jobs.map(|(name, address)| (format!("dit-{name}"), address));
    let jobs: Vec<_> = jobs.iter().map(|(job, address)| (job.as_str(), *address)).collect();
    let prometheus = Prometheus::start(&jobs, None).unwrap();
    let queries: Vec<_> = DASHBOARDS.into_iter().flat_map(queries).collect();
    let mut day = 0;
    let mut live = || {
        day += 1;
        change_agreement(&site, "suspended");
        change_agreement(&site, "active");
        take_day(&site, day);
    };
    let mut empty = Vec::new();
    let filled = eventually("every panel has data", || {
        live();
        seen_open(&prometheus);
        empty.clear();
        for query in &queries {
            let may_be_empty = MAY_BE_EMPTY.contains(&query.panel.as_str());
            if ask(&prometheus, &query.query)? == 0 && !may_be_empty {
                empty.push(format!("{}: {}", query.panel, query.query));
            }
        }
        Ok(empty.is_empty())
    });
    filled.unwrap_or_else(|e| panic!("{e:#}\n{}", empty.join("\n")));
    if let Some(dir) = std::env::var_os(ANSWERS) {
        keep_answers(&prometheus, Path::new(&dir), live);
    }
    println!("{} queries answered on day {day}", queries.len());
}

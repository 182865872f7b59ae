//! Revocation with two routers under load: after the acknowledgement, no router hands over a row.
//!
//! The routers log each hand-over of rows and each acknowledgement, by one machine's clock.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parts::kafka::Kafka;
use platform::client::{Client, send_json};
use schemas::change::Op;
use schemas::ids::Epoch;
use serde_json::{Value, json};
use support::network::{Stream, row};
use support::publisher::SCHEMA;
use support::publisher::{Publisher, datum};
use support::routers::Routers;
use tokio::task::JoinHandle;

const EPOCH: Epoch = Epoch::new([7; 16]);
const REVOCATIONS: usize = 200;
/// Streams that are open at once.
const OPEN: usize = 10;
/// Agreements whose streams are on the router that is stopped.
const STOPPED: usize = 20;
/// Between two batches: a thousand events a second.
const EVERY: Duration = Duration::from_millis(20);
const BATCH: usize = 20;

/// A consumer that reads until the connection ends, and then returns what it saw.
type Reader = JoinHandle<anyhow::Result<Stream>>;

struct Play {
    routers: Routers,
    operators: [Client; 2],
    _dir: tempfile::TempDir,
}

async fn put(operator: &Client, path: &str, body: &Value) {
    let _: Value = send_json(operator.put(path).json(body)).await.unwrap();
}

impl Play {
    async fn start() -> Self {
        platform::identity::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let brokers = Kafka::shared(1).unwrap();
        let dit = env!("CARGO_BIN_EXE_dit");
        let filter = "info,dit::handed=trace";
        let routers = Routers::start_logging(dir.path(), dit, &brokers, 2, filter).await.unwrap();
        let operators = [0, 1].map(|index| routers.operator(index).unwrap());
        for id in ["4000", "9000"] {
            put(&operators[0], "/v1/participants", &json!({"id": id, "name": id})).await;
        }
        let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": serde_json::from_str::<Value>(SCHEMA).unwrap()});
        put(&operators[0], "/v1/channels", &channel).await;
        Self { routers, operators, _dir: dir }
    }

    /// A thousand events a second, until `stop` is set; how many there were and how long it took.
    fn publish(&self, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, Duration)> {
        let mut publisher = Publisher::new(self.routers.client(0, "4000/main").unwrap(), EPOCH);
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            publisher.open(None).await.unwrap();
            let began = Instant::now();
            let mut count = 0;
            let mut ticks = tokio::time::interval(EVERY);
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let keys = (0..BATCH).map(|offset| format!("k{}", count + offset));
                let datums: Vec<_> =
                    keys.map(|key| datum(Op::Create, &key, None, Some(&row(&key, "R")))).collect();
                publisher.publish(&datums).await.unwrap();
                count += BATCH;
            }
            (count, began.elapsed())
        })
    }

    /// Makes an agreement, opens its stream on a router, and waits for its first row.
    async fn consume(&self, number: usize, router: usize) -> Reader {
        let agreement = json!({"number": format!("A-{number}"), "version": 1, "provider": "4000",
            "consumer": "9000", "channel": "register", "purpose": "test", "legal_basis": "test",
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1, "rows": "true",
            "fields": {"k": "keep", "t": "keep"}});
        put(&self.operators[router], "/v1/agreements", &agreement).await;
        let client = self.routers.client(router, "9000/main").unwrap();
        let mut stream = Stream::open(&client, &format!("A-{number}"), "latest").await.unwrap();
        stream.until(|word| word.starts_with("upsert")).await.unwrap();
        tokio::spawn(async move {
            stream.until(|_| false).await?;
            Ok(stream)
        })
    }

    /// How long the operator waited, and when it had its answer.
    async fn revoke(&self, number: usize, router: usize) -> (Duration, Instant) {
        let asked = Instant::now();
        let body = json!({"status": "revoked", "reason": "the test says so"});
        let path = format!("/v1/agreements/A-{number}/status");
        let _: Value = send_json(self.operators[router].post(&path).json(&body)).await.unwrap();
        (asked.elapsed(), Instant::now())
    }

    /// By agreement: hand-overs of rows after its acknowledgement.
    fn late(&self) -> HashMap<String, usize> {
        let lines: Vec<Value> = [0, 1].into_iter().flat_map(|index| self.routers.log(index)).collect();
        let text = |line: &Value, name: &str| line["fields"][name].as_str().unwrap_or_default().to_owned();
        let at = |line: &Value| line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let acknowledged: HashMap<String, jiff::Timestamp> = lines
            .iter()
            .filter(|line| text(line, "message") == "acknowledged")
            .map(|line| (text(line, "agreement"), at(line)))
            .collect();
        let mut late: HashMap<String, usize> =
            acknowledged.keys().map(|number| (number.clone(), 0)).collect();
        let mut handed = 0;
        for line in lines.iter().filter(|line| line["target"] == "dit::handed") {
            let number = text(line, "agreement");
            let rows = line["fields"]["rows"].as_u64().unwrap();
            handed += rows;
            if rows > 0 && acknowledged.get(&number).is_some_and(|acknowledged| at(line) > *acknowledged) {
                *late.get_mut(&number).unwrap() += 1;
            }
        }
        assert!(handed > 0, "the routers told of no hand-over: nothing was looked at");
        late
    }
}

/// Checks a reader's end: one closing record, nothing after it, no row later than a second after the answer.
async fn check(number: usize, reader: Reader, answered: Instant) {
    let stream = reader.await.unwrap().unwrap();
    let last = stream.words.last().unwrap();
    assert!(last.starts_with("closing Stop revoked"), "A-{number}: {last}");
    assert_eq!(stream.words.iter().filter(|word| word.starts_with("closing")).count(), 1);
    let lateness = stream.last_row.unwrap().saturating_duration_since(answered);
    assert!(
        lateness < Duration::from_secs(1),
        "A-{number}: a row came {lateness:?} after the acknowledgement"
    );
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn say(what: &str, mut waits: Vec<Duration>) {
    waits.sort();
    println!(
        "{what}: {} revocations, acknowledged after p50 {:?}, p99 {:?}, at most {:?}",
        waits.len(),
        percentile(&waits, 50),
        percentile(&waits, 99),
        percentile(&waits, 100)
    );
}

/// Done when, 4.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_over_on_every_router() {
    let mut play = Play::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = play.publish(&stop);
    let mut readers = HashMap::new();
    for number in 0..OPEN {
        readers.insert(number, play.consume(number, number % 2).await);
    }
    let mut waits = Vec::new();
    for number in 0..REVOCATIONS {
        // By turns at the router that serves the stream, and at the other one.
        let (wait, answered) = play.revoke(number, number / 2 % 2).await;
        waits.push(wait);
        check(number, readers.remove(&number).unwrap(), answered).await;
        let next = number + OPEN;
        readers.insert(next, play.consume(next, next % 2).await);
    }
    say("two routers", waits);
    assert_eq!(play.late().into_iter().filter(|(_, late)| *late > 0).count(), 0, "{:?}", play.late());

    let stopped: Vec<usize> = (1_000..1_000 + STOPPED).collect();
    for number in &stopped {
        readers.insert(*number, play.consume(*number, 1).await);
    }
    play.routers.signal(1, "-STOP").unwrap();
    let mut waits = Vec::new();
    for number in &stopped {
        waits.push(play.revoke(*number, 0).await.0);
    }
    assert!(
        waits[0] < Duration::from_secs(5),
        "a router that is silent is waited for no longer than its lease"
    );
    say("one router stopped", waits);
    play.routers.signal(1, "-CONT").unwrap();
    for number in stopped {
        let stream = readers.remove(&number).unwrap().await.unwrap().unwrap();
        assert!(stream.words.last().unwrap().starts_with("closing Stop revoked"));
    }
    stop.store(true, Ordering::Relaxed);
    let (count, took) = publishing.await.unwrap();
    println!("{count} events in {took:?}: {:.0} a second", count as f64 / took.as_secs_f64());
    let late = play.late();
    println!("frames handed over late, by streams of the stopped router: {:?}", late.values().sum::<usize>());
    assert!(late.values().all(|late| *late <= 1), "{late:?}");
}

//! Five years of the .gov register as its provider would send them: headers renamed and changed, two accidents of
//! publication, three states and a late joiner.
//!
//! The expected last dump is computed from the raw file alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

#[cfg(feature = "kafka")]
mod two_routers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer_agent::receive::reconciler::Reconciled;
use consumer_agent::sink::Sink;
use consumer_agent::sink::file::FileSink;
use consumer_agent::status::Status;
use dit::demo::backing::Backing;
use dit::demo::network::{Network, Producer};
use dit::demo::tables::ReplicaTable;
use parts::registry::Registry;
use platform::client::send_json;
use platform::segments::disk::RealDisk;
use producer_agent::source::file::source::FileSource;
use producer_agent::source::file::table::Table;
use producer_agent::source::format::TableFormat;
use producer_agent::take::guard::Guard;
use router::registry::external::{External, RegistryOptions};
use schemas::avro::names::field_name;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::ids::AgentId;
use serde_json::json;
use support::real_data;
use support::routers::Routers;
use tokio::sync::watch;

/// Dumps that the guard must hold for good: one has 896 of 9,892 rows, the other has none.
const ACCIDENTS: [&str; 2] = ["2024-02-28T211504", "2024-03-06T061239"];

/// The columns of a version, each with the names that it had before.
type Columns = [(&'static str, &'static [&'static str]); 7];

const FIRST: Columns = [
    ("Domain Name", &[]),
    ("Domain Type", &[]),
    ("Agency", &[]),
    ("Organization", &[]),
    ("City", &[]),
    ("State", &[]),
    ("Security Contact Email", &[]),
];
const RENAMED: Columns = [
    ("Domain name", &["Domain Name"]),
    ("Domain type", &["Domain Type"]),
    ("Agency", &[]),
    ("Organization name", &["Organization"]),
    ("City", &[]),
    ("State", &[]),
    ("Security contact email", &["Security Contact Email"]),
];
const EVOLVED: Columns = [
    ("Domain name", &["Domain Name"]),
    ("Domain type", &["Domain Type"]),
    ("Organization name", &["Organization"]),
    ("Suborganization name", &[]),
    ("City", &[]),
    ("State", &[]),
    ("Security contact email", &["Security Contact Email"]),
];

fn schema(columns: &Columns) -> AvroSchema {
    let field = |(name, before): &(&str, &[&str])| {
        let aliases: Vec<String> = before.iter().map(|name| field_name(name)).collect();
        json!({"name": field_name(name), "type": "string", "default": "", "aliases": aliases})
    };
    let fields: Vec<_> = columns.iter().map(field).collect();
    AvroSchema::from_json(json!({"type": "record", "name": "gov.Domain", "fields": fields})).unwrap()
}

fn agreement(consumer: &str, version: u32, schema_version: u32, columns: &Columns) -> serde_json::Value {
    let rows = if consumer == "late" { "true".to_owned() } else { format!("State == \"{consumer}\"") };
    let fields: BTreeMap<String, &str> = columns.iter().map(|(name, _)| (field_name(name), "keep")).collect();
    json!({"number": format!("A-{consumer}"), "version": version, "provider": "gov", "consumer": consumer,
        "channel": "domains", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": schema_version, "rows": rows, "fields": fields})
}

struct Play {
    network: Network,
    producer: Producer,
    dir: tempfile::TempDir,
    /// A database for the replicas, and their tables by consumer; files without it.
    postgres: Option<String>,
    tables: BTreeMap<String, ReplicaTable>,
    /// (file, would delete, would change) of each file that the guard held.
    held: Vec<(String, u64, u64)>,
    /// The results of comparing the replicas with the register, by consumer.
    checks: Arc<Mutex<BTreeMap<String, Vec<Reconciled>>>>,
}

/// Replicas are compared while the register's changes go through.
const CHECK_EVERY: Duration = Duration::from_secs(1);

async fn keep_checks(
    mut status: watch::Receiver<Status>,
    checks: Arc<Mutex<BTreeMap<String, Vec<Reconciled>>>>,
    consumer: String,
) {
    while status.changed().await.is_ok() {
        let Some(found) = status.borrow_and_update().reconciled else { continue };
        let mut checks = checks.lock().unwrap();
        let known = checks.entry(consumer.clone()).or_default();
        if known.last() != Some(&found) {
            known.push(found);
        }
    }
}

impl Play {
    async fn start(backing: &Backing, postgres: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(dir.path(), backing).await.unwrap();
        for id in ["gov", "CA", "TX", "NY", "late"] {
            network.participant(id, id).await.unwrap();
        }
        let channel: Channel = serde_json::from_value(json!({"name": "domains", "kind": "distribution",
            "owner": "gov", "partitions": 2, "schema": schema(&FIRST).json(),
            "key": {"fields": [field_name("Domain Name")], "normalise": ["lowercase"]}}))
        .unwrap();
        network.channel(&channel).await.unwrap();
        let id: AgentId = "gov/main".parse().unwrap();
        let producer = network.producer(&id, &channel.name).await.unwrap();
        Self {
            network,
            producer,
            dir,
            postgres,
            tables: BTreeMap::new(),
            held: Vec::new(),
            checks: Arc::default(),
        }
    }

    async fn put(&self, agreement: serde_json::Value) {
        self.network.agreement(&serde_json::from_value(agreement).unwrap()).await.unwrap();
    }

    async fn consume(&mut self, consumer: &str) {
        let id = format!("{consumer}/main").parse().unwrap();
        let number = format!("A-{consumer}").parse().unwrap();
        let sink: Box<dyn Sink> = match &self.postgres {
            Some(url) => {
                let table = ReplicaTable::make(url, consumer, "domains").await.unwrap();
                let sink = table.sink(&number);
                self.tables.insert(consumer.to_owned(), table);
                Box::new(sink)
            }
            None => {
                let dir = self.dir.path().join(consumer);
                Box::new(FileSink::open(Arc::new(RealDisk), &dir, "domains").unwrap())
            }
        };
        let status = self.network.consumer(&id, number, sink, Some(CHECK_EVERY)).unwrap();
        let checks = Arc::clone(&self.checks);
        let consumer = consumer.to_owned();
        self.network.spawn(keep_checks(status, checks, consumer));
    }

    fn take(&mut self, file: &Path) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let take = |accepted| {
            let format = TableFormat::default();
            let guard = Guard::default();
            let source = FileSource::open(file, &format).unwrap();
            tokio::task::block_in_place(|| self.producer.agent.take(&source, guard, accepted)).unwrap()
        };
        let report = take(false);
        assert!(report.parked.is_empty() && report.deletes_held.is_none(), "{name}: {:?}", report.parked);
        if report.taken {
            return;
        }
        self.held.push((name.clone(), report.counts.delete, report.counts.update));
        if !ACCIDENTS.iter().any(|accident| name.starts_with(accident)) {
            assert!(take(true).taken);
        }
    }

    async fn rows(&self, consumer: &str) -> BTreeMap<String, serde_json::Value> {
        let text = match self.tables.get(consumer) {
            // Before the first stream there is no table.
            Some(table) => table.rows().await.unwrap_or_default().join("\n"),
            None => {
                let path = self.dir.path().join(consumer).join("domains.ndjson");
                std::fs::read_to_string(path).unwrap_or_default()
            }
        };
        let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        rows.map(|row| (row["Domain name"].as_str().unwrap_or_default().to_lowercase(), row)).collect()
    }

    /// Every replica equals its part of the last dump, and every comparison found it equal.
    async fn is_right(&self, last: &BTreeMap<String, serde_json::Value>) {
        for consumer in ["CA", "TX", "NY", "late"] {
            let expected: BTreeMap<_, _> =
                last.iter().filter(|(_, row)| consumer == "late" || row["State"] == consumer).collect();
            let deadline = std::time::Instant::now() + Duration::from_secs(120);
            loop {
                let rows = self.rows(consumer).await;
                if rows.iter().collect::<BTreeMap<_, _>>() == expected {
                    break;
                }
                let is_early = std::time::Instant::now() < deadline;
                assert!(is_early, "{consumer}: {} of {}", rows.len(), expected.len());
                tokio::task::yield_now().await;
            }
            assert!(!expected.is_empty());
            let found_equal = || {
                let rows = u64::try_from(expected.len()).unwrap();
                let checks = self.checks.lock().unwrap().get(consumer).cloned().unwrap_or_default();
                checks.last().is_some_and(|last| last.equal && last.rows == rows).then_some(checks)
            };
            let checks = loop {
                if let Some(checks) = found_equal() {
                    break checks;
                }
                assert!(std::time::Instant::now() < deadline, "{consumer}: not found equal");
                tokio::task::yield_now().await;
            };
            // No comparison of the five years found a difference.
            assert!(checks.iter().all(|check| check.equal && check.repaired == 0), "{consumer}: {checks:?}");
            println!("{consumer}: found equal {} times", checks.len());
        }
    }
}

/// The rows of a raw file, by key, as JSON objects.
fn raw(file: &Path) -> BTreeMap<String, serde_json::Value> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    let header = reader.headers().unwrap().clone();
    let mut rows = BTreeMap::new();
    for record in reader.records() {
        let record = record.unwrap();
        let row: serde_json::Map<_, _> =
            header.iter().zip(&record).map(|(name, cell)| (name.to_owned(), cell.into())).collect();
        rows.insert(record[0].to_lowercase(), serde_json::Value::Object(row));
    }
    rows
}

fn dumps(unpacked: &Path) -> Vec<PathBuf> {
    let archive = real_data::folder("", "us-dotgov").unwrap().join("snapshots.tar.zst");
    real_data::unpack(&archive, unpacked).unwrap();
    real_data::files_in(&unpacked.join("snapshots")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_goes_through_renamed_headers_new_columns_and_accidents() {
    if real_data::folder("the .gov register as its provider sends it", "us-dotgov").is_some() {
        five_years(&Backing::Embedded, None, None).await;
    }
}

/// Two routers and an external schema registry, outside this process.
struct Outside {
    routers: Routers,
    registry: Registry,
}

impl Outside {
    /// Kills a router and stops the registry: events of a known schema do not wait for it.
    fn half_way(&mut self) {
        self.routers.kill(0).unwrap();
        self.registry.stop().unwrap();
    }

    /// The registry comes back, restored from what was registered.
    async fn restore(&mut self) {
        self.registry.run().unwrap();
        let client = self.routers.client(1, "gov/main").unwrap();
        let options = RegistryOptions { url: self.registry.url(), username: None, password_file: None };
        let external = External::new(&options).unwrap();
        let mut given = 0;
        for version in [1, 2] {
            let path = format!("/registry/subjects/dit.domains.log-value/versions/{version}");
            let known: serde_json::Value = send_json(client.get(&path)).await.unwrap();
            let schema = AvroSchema::parse(known["schema"].as_str().unwrap()).unwrap();
            // A refused registration took an id, too: two routers that register one schema at once leave a gap.
            while given + 1 < known["id"].as_u64().unwrap() {
                let other = format!(
                    r#"{{"type":"record","name":"gap{given}","fields":[{{"name":"a","type":"string"}}]}}"#
                );
                let other = AvroSchema::parse(&other).unwrap();
                given = u64::from(external.register(&format!("gap{given}"), &other).await.unwrap().get());
            }
            let id = external.register("dit.domains.log-value", &schema).await.unwrap();
            assert_eq!(known["id"], id.get());
            given = u64::from(id.get());
        }
    }
}

/// The same play with two routers on a real Kafka, one of them killed half-way, and into PostgreSQL; an external schema
/// registry is stopped half-way and started when the schema evolves.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn the_register_on_kafka_and_into_postgresql() {
    if real_data::folder("the .gov register on Kafka", "us-dotgov").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().unwrap();
    let (routers, backing) = two_routers::start_before(dir.path(), &registry.url()).await;
    let database = parts::postgres::Postgres::shared().unwrap();
    five_years(&backing, Some(database), Some(Outside { routers, registry })).await;
}

async fn five_years(backing: &Backing, postgres: Option<String>, mut outside: Option<Outside>) {
    let unpacked = tempfile::tempdir().unwrap();
    let files = dumps(unpacked.path());
    assert_eq!(files.len(), 111);
    let mut play = Play::start(backing, postgres).await;
    for consumer in ["CA", "TX", "NY"] {
        play.put(agreement(consumer, 1, 1, &FIRST)).await;
        play.consume(consumer).await;
    }
    let mut current = FIRST;
    for (index, file) in files.iter().enumerate() {
        let header = Table::open(file, &TableFormat::default()).unwrap().header().to_vec();
        for next in [RENAMED, EVOLVED] {
            if header != current.map(|(name, _)| name) && header == next.map(|(name, _)| name) {
                play.producer.drained().await.unwrap();
                play.producer.agent.use_schema(&schema(&next)).unwrap();
                current = next;
                if current == EVOLVED {
                    // Agency was removed: without an amendment each stream would stop with schema_mismatch.
                    let id: AgentId = "gov/main".parse().unwrap();
                    let channel: Channel =
                        serde_json::from_value(json!({"name": "domains", "kind": "distribution",
                        "owner": "gov", "partitions": 2, "schema": {}, "key": {"fields": ["x"]}}))
                        .unwrap();
                    if let Some(outside) = &mut outside {
                        let refused = play.network.register(&id, &channel, &schema(&EVOLVED)).await;
                        let words = refused.unwrap_err().to_string();
                        assert!(words.contains("503") || words.contains("unavailable"), "{words}");
                        outside.restore().await;
                    }
                    play.network.register(&id, &channel, &schema(&EVOLVED)).await.unwrap();
                    for consumer in ["CA", "TX", "NY"] {
                        play.put(agreement(consumer, 2, 3, &EVOLVED)).await;
                    }
                }
            }
        }
        play.take(file);
        if index == files.len() / 2 {
            outside.iter_mut().for_each(Outside::half_way);
        }
        if index + 20 == files.len() {
            play.put(agreement("late", 1, 3, &EVOLVED)).await;
            play.consume("late").await;
        }
    }
    play.producer.drained().await.unwrap();
    check_held(&play.held);
    play.is_right(&raw(files.last().unwrap())).await;
    play.network.stop().await.unwrap();
}

/// The files that the guard held, each with the rows that it would have deleted and changed.
fn check_held(held: &[(String, u64, u64)]) {
    let held: Vec<(&str, u64, u64)> =
        held.iter().map(|(name, delete, update)| (&name[..17], *delete, *update)).collect();
    let expected = [
        // Released: with the header's renaming the domains' own spelling went from upper to lower case. The key is
        // lower-cased and stays; the field keeps its value, so every row changes.
        ("2024-01-30T175721", 4, 9_624),
        // Held for good: 896 rows, and no rows.
        ("2024-02-28T211504", 8_996, 0),
        ("2024-03-06T061239", 9_910, 0),
        // Released: a bad dump and its repair, the same day.
        ("2025-09-24T061207", 1, 13_679),
        ("2025-09-24T184721", 1, 13_704),
    ];
    assert_eq!(held, expected);
}

//! The laws that every log must obey: one suite, run on each implementation; for Kafka on real clusters.

use std::time::Duration;

use schemas::ids::{Offset, Partition};
use schemas::record::Record;

use super::embedded::{EmbeddedLog, EmbeddedOptions};
use super::memory::MemoryLog;
use super::*;

const P0: Partition = Partition::new(0);
const LONG: Duration = Duration::from_secs(20);

fn record(key: &str, value: &str) -> Record {
    let value = (!value.is_empty()).then(|| value.as_bytes().to_vec());
    Record { key: Some(key.into()), value, headers: vec![("h".into(), b"v".into())] }
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, cleanup: Cleanup::KeepAll }
}

async fn all(log: &dyn Log, topic: &str, from: u64) -> Vec<Stored> {
    let mut found = Vec::new();
    let mut next = Offset::new(from);
    let end = log.bounds(topic, P0).await.unwrap().next;
    while next < end {
        let batch = log.read(topic, P0, next, 100, Duration::ZERO).await.unwrap();
        assert!(batch.next > next, "a gap must not stop its reader");
        assert!(batch.records.iter().all(|stored| stored.offset >= next), "offsets grow");
        next = batch.next;
        found.extend(batch.records);
    }
    found
}

async fn values(log: &dyn Log, topic: &str, from: u64) -> Vec<String> {
    let stored = all(log, topic, from).await;
    stored.into_iter().map(|s| String::from_utf8(s.record.value.unwrap()).unwrap()).collect()
}

/// Runs each law on each log.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        laws!(@on memory, super::memory(), $($law),*);
        laws!(@on embedded, super::embedded(super::EmbeddedOptions::default()), $($law),*);
        // Rolls, cleans and reopens all the time: readers must not notice.
        laws!(@on embedded_restless, super::embedded(super::RESTLESS), $($law),*);
        #[cfg(feature = "kafka")]
        laws!(@on kafka_of_one_node, super::kafka(1), $($law),*);
        #[cfg(feature = "kafka")]
        laws!(@on kafka_of_three_nodes, super::kafka(3), $($law),*);
    };
    (@on $log:ident, $make:expr, $($law:ident),*) => {
        mod $log {
            $(#[tokio::test] async fn $law() { let (log, _place) = $make; super::$law(&log).await; })*
        }
    };
}

laws!(
    what_was_appended_is_read_in_order_once,
    a_topic_is_made_once_and_a_disagreement_is_named,
    a_reader_at_the_end_is_woken_by_an_append,
    offsets_outside_are_named,
    a_record_past_the_limit_is_refused_whole,
    a_new_writer_fences_the_one_before,
    times_find_offsets,
    deleted_records_are_gone_or_as_they_were,
    readers_of_one_partition_do_not_disturb_each_other,
    a_topic_that_was_just_made_is_there_for_every_reader,
);

const RESTLESS: EmbeddedOptions =
    EmbeddedOptions { segment_bytes: 100, clean_every: Duration::from_millis(1) };

fn memory() -> (MemoryLog, ()) {
    (MemoryLog::default(), ())
}

fn embedded(options: EmbeddedOptions) -> (EmbeddedLog, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (EmbeddedLog::open(dir.path(), options).unwrap(), dir)
}

/// A log on a cluster that all tests share, under a prefix of its own.
#[cfg(feature = "kafka")]
fn kafka(nodes: u16) -> (super::kafka::KafkaLog, ()) {
    let brokers = parts::kafka::Kafka::shared(nodes.into()).unwrap();
    let prefix = format!("t{}.", hex::encode(platform::random::id().unwrap()));
    let options = crate::kafka_options::KafkaOptions { brokers, prefix, replication: nodes, security: None };
    (super::kafka::KafkaLog::connect(&options).unwrap(), ())
}

async fn what_was_appended_is_read_in_order_once(log: &dyn Log) {
    assert!(log.ensure_topic(&spec("t", 2)).await.unwrap());
    let last = log.append("t", P0, vec![record("a", "1"), record("b", "2")]).await.unwrap();
    log.append("t", P0, vec![record("c", "3")]).await.unwrap();
    log.append("t", Partition::new(1), vec![record("x", "other")]).await.unwrap();
    assert_eq!(values(log, "t", 0).await, ["1", "2", "3"]);
    assert_eq!(values(log, "t", last.next().get()).await, ["3"]);
    let stored = log.read("t", P0, Offset::new(0), 1, Duration::ZERO).await.unwrap().records;
    assert_eq!(stored.len(), 1, "at least one record however small the limit");
    assert_eq!(stored[0].record, record("a", "1"));
}

async fn a_topic_is_made_once_and_a_disagreement_is_named(log: &dyn Log) {
    assert!(log.ensure_topic(&spec("t", 2)).await.unwrap());
    assert!(!log.ensure_topic(&spec("t", 2)).await.unwrap());
    let error = log.ensure_topic(&spec("t", 3)).await.unwrap_err().to_string();
    assert!(error.contains("2 partitions") && error.contains("3 partitions"), "{error}");
    let missing = log.append("nowhere", P0, vec![record("a", "1")]).await;
    assert!(matches!(missing, Err(AppendError::Refused(_))));
    let beyond = log.bounds("t", Partition::new(2)).await;
    assert!(matches!(beyond, Err(TopicError::Unknown { .. })));
}

async fn a_reader_at_the_end_is_woken_by_an_append(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    let reading = log.read("t", P0, Offset::new(0), 100, LONG);
    let appending = log.append("t", P0, vec![record("a", "1")]);
    let (batch, appended) = tokio::join!(tokio::time::timeout(LONG, reading), appending);
    appended.unwrap();
    assert_eq!(batch.unwrap().unwrap().records.len(), 1);
}

async fn offsets_outside_are_named(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    log.append("t", P0, vec![record("a", "1")]).await.unwrap();
    let beyond = log.read("t", P0, Offset::new(99), 100, Duration::ZERO).await;
    assert!(matches!(beyond, Err(ReadError::BeyondEnd { .. })));
}

async fn a_record_past_the_limit_is_refused_whole(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    let large = record("a", &"x".repeat(MAX_RECORD_BYTES));
    let refused = log.append("t", P0, vec![record("a", "1"), large]).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    assert!(values(log, "t", 0).await.is_empty());
}

async fn a_new_writer_fences_the_one_before(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    let mut first = log.open_writer("w").await.unwrap();
    first.commit("t", P0, vec![record("a", "1"), record("b", "2")]).await.unwrap();
    let mut other = log.open_writer("another id").await.unwrap();
    let mut second = log.open_writer("w").await.unwrap();
    let fenced = first.commit("t", P0, vec![record("a", "zombie")]).await;
    assert!(matches!(fenced, Err(CommitError::Fenced)));
    second.commit("t", P0, vec![record("a", "3")]).await.unwrap();
    let committed = other.commit("t", P0, vec![record("a", "4")]).await.unwrap();
    assert_eq!(log.bounds("t", P0).await.unwrap().next, committed.next, "nothing is behind it");
    let read = log.read("t", P0, committed.last, 100, Duration::ZERO).await.unwrap();
    assert_eq!(read.records.first().map(|stored| stored.offset), Some(committed.last));
    assert_eq!(values(log, "t", 0).await, ["1", "2", "3", "4"]);
}

async fn times_find_offsets(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    log.append("t", P0, vec![record("a", "1")]).await.unwrap();
    let stored = log.read("t", P0, Offset::new(0), 100, Duration::ZERO).await.unwrap().records;
    let at = stored[0].logged_at;
    assert_eq!(log.offset_at("t", P0, at).await.unwrap(), Offset::new(0));
    let end = log.bounds("t", P0).await.unwrap().next;
    assert_eq!(log.offset_at("t", P0, at.plus(60_000)).await.unwrap(), end);
}

/// Random positions, small batches, many readers at once: each reading gives the records of its position.
async fn readers_of_one_partition_do_not_disturb_each_other(log: &dyn Log) {
    const RECORDS: u64 = 400;
    log.ensure_topic(&spec("t", 2)).await.unwrap();
    for partition in [P0, Partition::new(1)] {
        let records = (0..RECORDS).map(|number| record("k", &format!("{partition}/{number}")));
        log.append("t", partition, records.collect()).await.unwrap();
    }
    let reader = |seed: u64| async move {
        let mut random = seed;
        for _ in 0..30 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let from = (random >> 33) % RECORDS;
            let partition = Partition::new((random >> 32) as u32 % 2);
            let wait = if random >> 63 == 0 { Duration::ZERO } else { LONG };
            let size = (random >> 40) as usize % 2_000;
            let batch = log.read("t", partition, Offset::new(from), size, wait).await.unwrap();
            let found: Vec<_> = batch.records.iter().map(|s| s.record.value.clone().unwrap()).collect();
            let until = from + found.len() as u64;
            let expected: Vec<_> = (from..until).map(|n| format!("{partition}/{n}").into_bytes()).collect();
            assert!(!found.is_empty(), "nothing at {from} of {partition}");
            assert_eq!(found, expected);
            assert_eq!(batch.next, Offset::new(until));
        }
    };
    futures_util::future::join_all((0..12).map(reader)).await;
}

#[tokio::test]
async fn the_memory_log_expires_under_its_readers() {
    let log = MemoryLog::default();
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    for number in 0..20 {
        log.append("t", P0, vec![record(&format!("k{}", number % 3), &number.to_string())]).await.unwrap();
    }
    log.expire("t", P0, Offset::new(16));
    let gone = log.read("t", P0, Offset::new(3), 100, Duration::ZERO).await;
    assert!(matches!(gone, Err(ReadError::BeforeFirst { first, .. }) if first == Offset::new(16)));
    assert_eq!(values(&log, "t", 16).await, ["16", "17", "18", "19"]);
    assert_eq!(log.bounds("t", P0).await.unwrap().next, Offset::new(20), "offsets go on");
}

#[tokio::test]
async fn what_the_memory_log_acknowledges_is_there_whatever_else_it_does() {
    for seed in 0..20 {
        let log = MemoryLog::default();
        log.misbehave(super::memory::Faults { seed, unknown: 200, cut: 200 });
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        let mut acknowledged = Vec::new();
        let mut unknown = 0;
        for number in 0..50 {
            let batch = [0, 1, 2].map(|part| record("k", &format!("{number}.{part}")));
            match log.append("t", P0, batch.to_vec()).await {
                Ok(_) => acknowledged.extend([0, 1, 2].map(|part| format!("{number}.{part}"))),
                Err(AppendError::Unknown(_)) => unknown += 1,
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        let found = values(&log, "t", 0).await;
        assert!(unknown > 0, "seed {seed} gave no fault");
        let kept: Vec<_> = found.iter().filter(|value| acknowledged.contains(value)).cloned().collect();
        assert_eq!(kept, acknowledged, "seed {seed}");
    }
}

/// A log may keep what was given up, but what it still has is as it was, and offsets go on.
async fn deleted_records_are_gone_or_as_they_were(log: &dyn Log) {
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    let mut writer = log.open_writer("w").await.unwrap();
    let mut offsets = Vec::new();
    for number in 0..30 {
        let committed = writer.commit("t", P0, vec![record("k", &number.to_string())]).await;
        offsets.push(committed.unwrap().last);
    }
    let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let mut given_up = 0;
    for before in [7, 7, 20, 3] {
        log.delete_records("t", P0, offsets[before]).await.unwrap();
        given_up = given_up.max(before);
        let first = log.bounds("t", P0).await.unwrap().first;
        assert!(first <= offsets[given_up], "no more goes than was given up: {first}");
        assert!(log.system() != "kafka" || first == offsets[given_up], "Kafka lets go at once: {first}");
        let held = offsets.iter().position(|offset| *offset >= first).unwrap();
        assert_eq!(values(log, "t", first.get()).await, expected[held..]);
        if first > Offset::new(0) {
            let gone = log.read("t", P0, Offset::new(0), 100, Duration::ZERO).await;
            assert!(matches!(gone, Err(ReadError::BeforeFirst { first: said, .. }) if said == first));
        }
    }
    let last = writer.commit("t", P0, vec![record("k", "30")]).await.unwrap().last;
    assert!(last > offsets[29], "offsets go on");
    let missing = log.delete_records("nowhere", P0, last).await;
    assert!(matches!(missing, Err(TopicError::Unknown { .. })));
}

async fn a_topic_that_was_just_made_is_there_for_every_reader(log: &dyn Log) {
    for number in 0..12 {
        let topic = format!("new-{number}");
        assert!(log.ensure_topic(&spec(&topic, 3)).await.unwrap());
        let partitions = (0..3).map(Partition::new);
        let read = partitions.flat_map(|partition| {
            let wait = Duration::from_millis(20);
            let first = Offset::new(0);
            [Duration::ZERO, wait].map(|wait| log.read(&topic, partition, first, 100, wait))
        });
        for batch in futures_util::future::join_all(read).await {
            assert_eq!(batch.unwrap(), Batch { records: Vec::new(), next: Offset::new(0) }, "{topic}");
        }
        log.append(&topic, P0, vec![record("k", "v")]).await.unwrap();
        assert_eq!(values(log, &topic, 0).await, ["v"]);
    }
}

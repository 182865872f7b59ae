//! What every log must do: one suite, run on each implementation.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{Offset, Partition};
use schemas::record::Record;

use super::embedded::{EmbeddedLog, EmbeddedOptions};
use super::memory::MemoryLog;
use super::*;

const P0: Partition = Partition::new(0);
const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

fn record(key: &str, value: &str) -> Record {
    let value = (!value.is_empty()).then(|| value.as_bytes().to_vec());
    Record { key: Some(key.into()), value, headers: vec![("h".to_owned(), b"v".to_vec())] }
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, cleanup: Cleanup::KeepAll }
}

async fn values(log: &dyn Log, topic: &str, from: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = Offset::new(from);
    loop {
        let batch = log.read(topic, P0, next, 100, SOON).await.unwrap();
        if batch.next == next {
            return found;
        }
        next = batch.next;
        found.extend(batch.records.into_iter().map(|s| String::from_utf8(s.record.value.unwrap()).unwrap()));
    }
}

async fn on_each<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Log>) -> F) {
    test(Arc::new(MemoryLog::default())).await;
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap();
    test(Arc::new(log)).await;
    // Rolls, cleans and reopens all the time: none of it may be seen.
    let restless = EmbeddedOptions { segment_bytes: 100, clean_every: Duration::from_millis(1) };
    let dir = tempfile::tempdir().unwrap();
    test(Arc::new(EmbeddedLog::open(dir.path(), restless).unwrap())).await;
}

#[tokio::test]
async fn what_was_appended_is_read_in_order_once() {
    on_each(|log| async move {
        assert!(log.ensure_topic(&spec("t", 2)).await.unwrap());
        let last = log.append("t", P0, vec![record("a", "1"), record("b", "2")]).await.unwrap();
        log.append("t", P0, vec![record("c", "3")]).await.unwrap();
        log.append("t", Partition::new(1), vec![record("x", "other")]).await.unwrap();
        assert_eq!(values(log.as_ref(), "t", 0).await, ["1", "2", "3"]);
        assert_eq!(values(log.as_ref(), "t", last.next().get()).await, ["3"]);
        let stored = log.read("t", P0, Offset::new(0), 1, SOON).await.unwrap().records;
        assert_eq!(stored.len(), 1, "at least one record however small the limit");
        assert_eq!(stored[0].record, record("a", "1"));
    })
    .await;
}

#[tokio::test]
async fn a_topic_is_made_once_and_a_disagreement_is_named() {
    on_each(|log| async move {
        assert!(log.ensure_topic(&spec("t", 2)).await.unwrap());
        assert!(!log.ensure_topic(&spec("t", 2)).await.unwrap());
        let error = log.ensure_topic(&spec("t", 3)).await.unwrap_err().to_string();
        assert!(error.contains("2 partitions") && error.contains("3 partitions"), "{error}");
        let missing = log.append("nowhere", P0, vec![record("a", "1")]).await;
        assert!(matches!(missing, Err(AppendError::Refused(_))));
        let beyond = log.bounds("t", Partition::new(2)).await;
        assert!(matches!(beyond, Err(TopicError::Unknown { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_reader_at_the_end_is_woken_by_an_append() {
    on_each(|log| async move {
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        let reader = Arc::clone(&log);
        let waiting = tokio::spawn(async move { reader.read("t", P0, Offset::new(0), 100, LONG).await });
        tokio::task::yield_now().await;
        log.append("t", P0, vec![record("a", "1")]).await.unwrap();
        let batch = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(batch.records.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn offsets_outside_are_named() {
    on_each(|log| async move {
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        log.append("t", P0, vec![record("a", "1")]).await.unwrap();
        let beyond = log.read("t", P0, Offset::new(99), 100, SOON).await;
        assert!(matches!(beyond, Err(ReadError::BeyondEnd { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_record_past_the_limit_is_refused_whole() {
    on_each(|log| async move {
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        let large = record("a", &"x".repeat(MAX_RECORD_BYTES));
        let refused = log.append("t", P0, vec![record("a", "1"), large]).await;
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
        assert!(values(log.as_ref(), "t", 0).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_new_writer_fences_the_one_before() {
    on_each(|log| async move {
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        let mut first = log.open_writer("w").await.unwrap();
        first.commit("t", P0, vec![record("a", "1"), record("b", "2")]).await.unwrap();
        let mut other = log.open_writer("another id").await.unwrap();
        let mut second = log.open_writer("w").await.unwrap();
        let fenced = first.commit("t", P0, vec![record("a", "zombie")]).await;
        assert!(matches!(fenced, Err(CommitError::Fenced)));
        second.commit("t", P0, vec![record("a", "3")]).await.unwrap();
        other.commit("t", P0, vec![record("a", "4")]).await.unwrap();
        assert_eq!(values(log.as_ref(), "t", 0).await, ["1", "2", "3", "4"]);
    })
    .await;
}

#[tokio::test]
async fn times_find_offsets() {
    on_each(|log| async move {
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        log.append("t", P0, vec![record("a", "1")]).await.unwrap();
        let stored = log.read("t", P0, Offset::new(0), 100, SOON).await.unwrap().records;
        let at = stored[0].logged_at;
        assert_eq!(log.offset_at("t", P0, at).await.unwrap(), Offset::new(0));
        let end = log.bounds("t", P0).await.unwrap().next;
        assert_eq!(log.offset_at("t", P0, at.plus(60_000)).await.unwrap(), end);
    })
    .await;
}

#[tokio::test]
async fn the_memory_log_compacts_and_expires_under_its_readers() {
    let log = MemoryLog::default();
    log.ensure_topic(&spec("t", 1)).await.unwrap();
    for number in 0..20 {
        log.append("t", P0, vec![record(&format!("k{}", number % 3), &number.to_string())]).await.unwrap();
    }
    log.compact("t", P0, Offset::new(15));
    assert_eq!(values(&log, "t", 0).await, ["12", "13", "14", "15", "16", "17", "18", "19"]);
    log.expire("t", P0, Offset::new(16));
    let gone = log.read("t", P0, Offset::new(3), 100, SOON).await;
    assert!(matches!(gone, Err(ReadError::BeforeFirst { first, .. }) if first == Offset::new(16)));
    assert_eq!(values(&log, "t", 16).await, ["16", "17", "18", "19"]);
    assert_eq!(log.bounds("t", P0).await.unwrap().next, Offset::new(20), "offsets go on");
}

#[tokio::test]
async fn what_the_memory_log_acknowledges_is_there_whatever_else_it_does() {
    for seed in 0..20 {
        let log = MemoryLog::new(super::memory::Faults { seed, unknown: 200, cut: 200 });
        log.ensure_topic(&spec("t", 1)).await.unwrap();
        let (mut acknowledged, mut unknown) = (Vec::new(), 0);
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

#[tokio::test]
async fn a_compacted_topic_keeps_each_keys_newest_record_at_its_offset() {
    on_each(|log| async move {
        let cleanup = Cleanup::Compaction { min_lag: Duration::ZERO };
        log.ensure_topic(&TopicSpec { cleanup, ..spec("t", 1) }).await.unwrap();
        let mut newest = std::collections::BTreeMap::new();
        for number in 0..300 {
            let key = format!("k{}", number % 7);
            let last = log.append("t", P0, vec![record(&key, &number.to_string())]).await.unwrap();
            newest.insert(key, (last, number.to_string()));
        }
        let mut found = std::collections::BTreeMap::new();
        let mut next = Offset::new(0);
        let end = log.bounds("t", P0).await.unwrap().next;
        while next < end {
            let batch = log.read("t", P0, next, 200, SOON).await.unwrap();
            assert!(batch.next > next, "a gap must not stop its reader");
            for stored in batch.records {
                assert!(stored.offset >= next, "offsets grow");
                let key = String::from_utf8(stored.record.key.unwrap()).unwrap();
                let value = String::from_utf8(stored.record.value.unwrap()).unwrap();
                found.insert(key, (stored.offset, value));
            }
            next = batch.next;
        }
        assert_eq!(found, newest);
    })
    .await;
}

//! One partition of the embedded log: its segments, what of them is synced, and what is too old.
//!
//! Owns reading and retention. Appending is the writer thread's alone.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use platform::segments::disk::RealDisk;
use platform::segments::{Options, SegmentError, SegmentStore};
use schemas::ids::Offset;
use schemas::time::Millis;
use tokio::sync::watch;

use super::super::{Batch, ReadError, Stored, TopicError, stored};
use super::{OpenError, TopicFile};

const KIND: [u8; 4] = *b"elog";

pub(super) struct PartitionLog {
    pub(super) store: RwLock<SegmentStore>,
    /// Records older than this go, whole segments at a time.
    retention: Option<Duration>,
    /// The first position that is not synced.
    pub(super) synced: watch::Sender<u64>,
}

/// Opens a topic's partitions; makes those that are missing.
pub(super) fn open_partitions(
    dir: &Path,
    topic: &TopicFile,
    segment_bytes: u64,
) -> Result<Vec<Arc<PartitionLog>>, OpenError> {
    (0..topic.partitions)
        .map(|number| {
            let path = dir.join(&topic.name).join(format!("{number}"));
            let options = Options { kind: KIND, segment_bytes };
            let (mut store, recovery) = SegmentStore::open(Arc::new(RealDisk), &path, options, b"")?;
            cut_open_batch(&mut store)?;
            if recovery.torn_bytes > 0 {
                tracing::info!(topic = %topic.name, partition = number, bytes = recovery.torn_bytes, "cut a torn write");
            }
            let synced = watch::Sender::new(store.next());
            let retention = topic.retention();
            Ok(Arc::new(PartitionLog { store: RwLock::new(store), retention, synced }))
        })
        .collect()
}

/// An atomic batch whose end did not reach the disk never happened.
fn cut_open_batch(store: &mut SegmentStore) -> Result<(), SegmentError> {
    let mut end = store.next();
    while end > store.first() {
        let frame = store.get(end - 1)?.and_then(|bytes| stored::decode(&bytes).ok());
        if frame.is_none_or(|frame| frame.ends_batch) {
            break;
        }
        end -= 1;
    }
    store.truncate_from(end)
}

/// Syncs what was appended, and shows it to readers.
pub(super) fn sync_partition(partition: &PartitionLog) -> Result<(), String> {
    let mut store = partition.store.write().unwrap_or_else(PoisonError::into_inner);
    store.sync().map_err(|error| error.to_string())?;
    partition.synced.send_replace(store.next());
    Ok(())
}

/// Synced records from an offset on.
pub(super) fn read_now(partition: &PartitionLog, from: Offset, max_bytes: usize) -> Result<Batch, ReadError> {
    let synced = *partition.synced.borrow();
    let store = partition.store.read().unwrap_or_else(PoisonError::into_inner);
    let first = Offset::new(store.first());
    if from < first {
        return Err(ReadError::BeforeFirst { wanted: from, first });
    }
    if from.get() > synced {
        return Err(ReadError::BeyondEnd { wanted: from, next: Offset::new(synced) });
    }
    let mut batch = Batch { records: Vec::new(), next: from };
    let mut size = 0;
    let mut damaged = None;
    if from.get() < synced {
        let outcome = store.read(from.get(), |position, bytes| {
            if position >= synced || (size > 0 && size + bytes.len() > max_bytes) {
                return false;
            }
            size += bytes.len().max(1);
            match stored::decode(&bytes) {
                Ok(frame) => {
                    let offset = Offset::new(position);
                    batch.records.push(Stored { offset, logged_at: frame.logged_at, record: frame.record });
                    batch.next = offset.next();
                    true
                }
                Err(error) => {
                    damaged = Some(format!("offset {position}: {error}"));
                    false
                }
            }
        });
        outcome.map_err(|e| TopicError::Unavailable(e.to_string()))?;
    }
    match damaged {
        Some(problem) if batch.records.is_empty() => Err(TopicError::Unavailable(problem).into()),
        _ => Ok(batch),
    }
}

/// Retention: drops whole segments whose last record is too old.
pub(super) fn expire(partition: &PartitionLog, now: Millis) -> Result<(), SegmentError> {
    let Some(retention) = partition.retention else { return Ok(()) };
    let keep_from = now.plus(-i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    let mut store = partition.store.write().unwrap_or_else(PoisonError::into_inner);
    let mut until = store.first();
    for segment in store.segments().collect::<Vec<_>>() {
        let last = segment.end.checked_sub(1).filter(|last| *last >= segment.first);
        let frame = last.map(|last| store.get(last)).transpose()?.flatten();
        let logged_at = frame.and_then(|bytes| stored::decode(&bytes).ok()).map(|frame| frame.logged_at);
        if logged_at.is_none_or(|at| at >= keep_from) {
            break;
        }
        until = segment.end;
    }
    store.drop_before(until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::record::Record;

    fn record(value: &str) -> Record {
        Record { key: None, value: Some(value.into()), headers: vec![] }
    }

    #[test]
    fn retention_drops_whole_old_segments_and_positions_stay() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { kind: KIND, segment_bytes: 100 };
        let (mut store, _) = SegmentStore::open(Arc::new(RealDisk), dir.path(), options, b"").unwrap();
        for at in 0..20 {
            store
                .append([stored::encode(true, Millis::new(at * 1_000), &record("0123456789")).as_slice()])
                .unwrap();
        }
        let (store, synced) = (RwLock::new(store), watch::Sender::new(20));
        let partition = PartitionLog { store, retention: Some(Duration::from_secs(5)), synced };
        expire(&partition, Millis::new(20_000)).unwrap();
        let store = partition.store.read().unwrap();
        assert!(store.first() > 5 && store.first() <= 15, "{}", store.first());
        assert_eq!(store.next(), 20);
    }

    #[test]
    fn an_atomic_batch_without_its_end_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options { kind: KIND, segment_bytes: 1 << 20 };
        let (mut store, _) = SegmentStore::open(Arc::new(RealDisk), dir.path(), options(), b"").unwrap();
        let frame = |ends| stored::encode(ends, Millis::new(1), &record("x"));
        store.append([frame(false).as_slice(), &frame(true), &frame(false), &frame(false)]).unwrap();
        cut_open_batch(&mut store).unwrap();
        assert_eq!(store.next(), 2);
        store.append([frame(true).as_slice()]).unwrap();
        store.sync().unwrap();
        drop(store);
        let (store, _) = SegmentStore::open(Arc::new(RealDisk), dir.path(), options(), b"").unwrap();
        assert_eq!(store.next(), 3);
    }
}

//! One partition of the embedded log: its segments, its synced end, and its retention.
//!
//! Owns reading and retention. It must not append: only the writer thread does.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use platform::segments::disk::Disk;
use platform::segments::{Options, SegmentError, SegmentStore};
use schemas::ids::{Offset, Partition};
use schemas::per_partition::PerPartition;
use schemas::time::Millis;
use tokio::sync::watch;

use super::super::{Batch, Cleanup, ReadError, Stored, TopicError, stored};
use super::OpenError;
use super::topic::TopicFile;

pub(super) const KIND: [u8; 4] = *b"elog";
/// Before this format a record of the state was one image: nothing reads such a state any more.
pub(super) const OLDEST_FORMAT: u16 = 4;

pub(super) struct PartitionLog {
    pub(super) store: RwLock<SegmentStore>,
    /// Which records may be removed, and when.
    pub(super) cleanup: Cleanup,
    /// The first position that is not synced.
    pub(super) synced: watch::Sender<u64>,
}

impl PartitionLog {
    pub(super) fn new(store: SegmentStore, cleanup: Cleanup) -> Self {
        let synced = watch::Sender::new(store.next());
        Self { store: RwLock::new(store), cleanup, synced }
    }

    /// Removes whole segments before an offset.
    pub(super) fn drop_before(&self, before: Offset) -> Result<(), SegmentError> {
        self.store.write().unwrap_or_else(PoisonError::into_inner).drop_before(before.get())
    }

    /// When its newest record was logged.
    pub(super) fn newest(&self) -> Option<Millis> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let last = store.next().checked_sub(1).filter(|last| *last >= store.first())?;
        let bytes = store.get(last).ok()??;
        stored::decode(&bytes).ok().map(|frame| frame.logged_at)
    }

    /// The first offset whose append time is not before `at`.
    pub(super) fn offset_at(&self, at: Millis) -> Result<Offset, TopicError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let mut low = store.first();
        let mut high = *self.synced.borrow();
        while low < high {
            let middle = low + (high - low) / 2;
            let found = store.get(middle).map_err(|e| TopicError::Unavailable(e.to_string()))?;
            let frame = found.and_then(|bytes| stored::decode(&bytes).ok());
            match frame.filter(|frame| frame.logged_at < at) {
                Some(_) => low = middle + 1,
                None => high = middle,
            }
        }
        Ok(Offset::new(low.min(*self.synced.borrow())))
    }

    /// Called when the log ends, so that the next start need not scan.
    pub(super) fn save_index(&self) -> Result<(), SegmentError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        if store.next() == *self.synced.borrow() { store.save_index() } else { Ok(()) }
    }
}

/// Opens a topic's partitions; makes those that are missing.
pub(super) fn open_partitions(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    topic: &TopicFile,
    segment_bytes: u64,
) -> Result<PerPartition<Arc<PartitionLog>>, OpenError> {
    Partition::all(topic.partitions)
        .map(|number| {
            let path = dir.join(&topic.name).join(format!("{number}"));
            let options = Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes };
            let (mut store, recovery) = SegmentStore::open(Arc::clone(disk), &path, options, b"")?;
            cut_open_batch(&mut store)?;
            if recovery.torn_bytes > 0 {
                tracing::info!(topic = %topic.name, partition = %number, bytes = recovery.torn_bytes, "cut a torn write");
            }
            Ok(Arc::new(PartitionLog::new(store, topic.cleanup())))
        })
        .collect()
}

/// Cuts off an atomic batch whose end did not reach the disk: it never happened.
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

/// Syncs the appended records, then shows them to readers. Readers are not blocked meanwhile.
pub(super) fn sync_partition(partition: &PartitionLog) -> Result<(), String> {
    let (pending, next) = {
        let store = partition.store.read().unwrap_or_else(PoisonError::into_inner);
        (store.pending_sync().map_err(|error| error.to_string())?, store.next())
    };
    pending.run().map_err(|error| {
        partition.store.write().unwrap_or_else(PoisonError::into_inner).poison();
        error.to_string()
    })?;
    partition.synced.send_replace(next);
    Ok(())
}

/// Reads synced records from an offset on.
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

/// Retention: drops whole segments whose last record was logged before `keep_from`.
pub(super) fn expire(partition: &PartitionLog, keep_from: Millis) -> Result<(), SegmentError> {
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
    use platform::segments::disk::RealDisk;
    use schemas::record::Record;

    fn frame(ends_batch: bool, at: i64, value: &str) -> Vec<u8> {
        let record = Record { key: None, value: Some(value.into()), headers: vec![] };
        let mut out = Vec::new();
        stored::encode(ends_batch, Millis::new(at), &record, &mut out);
        out
    }

    #[test]
    fn retention_drops_whole_old_segments_and_positions_stay() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes: 100 };
        let (mut store, _) = SegmentStore::open(Arc::new(RealDisk), dir.path(), options, b"").unwrap();
        for at in 0..20 {
            store.append([frame(true, at * 1_000, "0123456789").as_slice()]).unwrap();
        }
        let partition = PartitionLog::new(store, Cleanup::KeepAll);
        expire(&partition, Millis::new(15_000)).unwrap();
        let store = partition.store.read().unwrap();
        assert!(store.first() > 5 && store.first() <= 15, "{}", store.first());
        assert_eq!(store.next(), 20);
    }

    #[test]
    fn an_atomic_batch_without_its_end_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes: 1 << 20 };
        let (mut store, _) = SegmentStore::open(Arc::new(RealDisk), dir.path(), options(), b"").unwrap();
        let frame = |ends| frame(ends, 1, "x");
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

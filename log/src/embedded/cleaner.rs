//! The cleaner thread: retention and compaction.
//!
//! Owns the decision when a compacted partition is worth rewriting, and which records stay: the newest of each key, and
//! every record that is younger than the bound. A record that deletes its key stays for twice the bound, so that a
//! reader that began before it surely reads it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use platform::segments::{Rewrite, Sealed, SegmentError};
use schemas::digest::hash128;
use schemas::time::Millis;

use super::super::{Cleanup, stored};
use super::Topics;
use super::partition::{PartitionLog, expire};

/// Cleans from time to time until the log is gone.
pub(super) fn clean_until_stopped(topics: &Topics, every: Duration, stopped: &Receiver<()>) {
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let all: Vec<Arc<PartitionLog>> = topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .flat_map(|(_, partitions)| partitions.values().map(Arc::clone))
            .collect();
        for partition in all {
            if let Err(error) = clean(&partition, platform::clock::now()) {
                tracing::error!(%error, "a partition could not be cleaned");
            }
        }
    }
}

/// Removes records that the cleanup no longer keeps.
pub(super) fn clean(partition: &PartitionLog, now: Millis) -> Result<(), SegmentError> {
    match partition.cleanup {
        Cleanup::KeepAll => Ok(()),
        Cleanup::Retention(time) => expire(partition, before(now, time)),
        Cleanup::Compaction { min_lag } => compact(partition, before(now, min_lag), before(now, 2 * min_lag)),
    }
}

fn before(now: Millis, time: Duration) -> Millis {
    now.plus(-i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Rewrites the sealed segments whose records were all logged before `until`, once the new ones have as many bytes as
/// those that were rewritten before.
fn compact(partition: &PartitionLog, until: Millis, gone_until: Millis) -> Result<(), SegmentError> {
    let sealed = partition.store.read().unwrap_or_else(PoisonError::into_inner).sealed();
    let mut ripe = Vec::new();
    for segment in sealed {
        if newest(&segment)?.is_some_and(|at| at >= until) {
            break;
        }
        ripe.push(segment);
    }
    let cleaned_to = partition.cleaned_to.load(Ordering::Acquire);
    let (clean, dirty): (Vec<_>, Vec<_>) = ripe.iter().partition(|segment| segment.end() <= cleaned_to);
    let bytes = |segments: &[&Sealed]| segments.iter().map(|segment| segment.bytes()).sum::<u64>();
    let Some(last) = dirty.last().filter(|_| bytes(&dirty) >= bytes(&clean)) else { return Ok(()) };
    let end = last.end();
    let newest = newest_of_keys(&ripe)?;
    let keeps = |position: u64, payload: &[u8]| match stored::decode(payload) {
        // A record that cannot be read is kept.
        Err(_) => true,
        Ok(frame) => match &frame.record.key {
            None => true,
            Some(_) if frame.record.value.is_none() && frame.logged_at < gone_until => false,
            Some(key) => newest.get(&hash128(key)) == Some(&position),
        },
    };
    rewrite(partition, &ripe, keeps)?;
    partition.cleaned_to.store(end, Ordering::Release);
    Ok(())
}

/// When the newest record of a segment was logged.
fn newest(segment: &Sealed) -> Result<Option<Millis>, SegmentError> {
    let mut found = None;
    segment.read_last(|payload| found = stored::decode(payload).ok().map(|frame| frame.logged_at))?;
    Ok(found)
}

/// Hash of key → position of its newest record.
fn newest_of_keys(segments: &[Sealed]) -> Result<HashMap<u128, u64>, SegmentError> {
    let mut newest = HashMap::new();
    for segment in segments {
        segment.read(|position, payload| {
            if let Ok(frame) = stored::decode(&payload)
                && let Some(key) = &frame.record.key
            {
                newest.insert(hash128(key), position);
            }
            true
        })?;
    }
    Ok(newest)
}

/// Rewrites segments; small neighbours become one.
fn rewrite(
    partition: &PartitionLog,
    segments: &[Sealed],
    keeps: impl Fn(u64, &[u8]) -> bool,
) -> Result<(), SegmentError> {
    let disk = &partition.disk;
    let install = |rewrite: Rewrite| {
        let rewritten = rewrite.finish()?;
        partition.store.write().unwrap_or_else(PoisonError::into_inner).install(rewritten)
    };
    let mut current: Option<Rewrite> = None;
    for segment in segments {
        let fits = |rewrite: &Rewrite| rewrite.bytes() < partition.segment_bytes && rewrite.takes(segment);
        if let Some(full) = current.take_if(|rewrite| !fits(rewrite)) {
            install(full)?;
        }
        let rewrite = match &mut current {
            Some(rewrite) => rewrite,
            None => current.insert(Rewrite::begin(disk, segment)?),
        };
        rewrite.absorb(segment, &keeps)?;
    }
    current.map_or(Ok(()), install)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use platform::segments::memory_disk::MemoryDisk;
    use platform::segments::{Frames, Options, SegmentStore};
    use proptest::prelude::*;
    use schemas::ids::Offset;
    use schemas::record::Record;

    use super::super::super::ReadError;
    use super::super::partition::{KIND, OLDEST_FORMAT, read_now, sync_partition};
    use super::*;

    const LAG: Duration = Duration::from_secs(10);

    fn open(disk: &MemoryDisk) -> PartitionLog {
        let disk = Arc::new(disk.clone());
        let bytes = 200;
        let options = Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes: bytes };
        let (store, _) = SegmentStore::open(disk.clone(), Path::new("/p"), options, b"").unwrap();
        PartitionLog::new(disk, store, Cleanup::Compaction { min_lag: LAG }, bytes)
    }

    fn put(partition: &PartitionLog, at: i64, record: &Record) {
        let mut frames = Frames::default();
        frames.push(|out| stored::encode(true, Millis::new(at), record, out));
        partition.store.write().unwrap().append_frames(&frames).unwrap();
    }

    /// Reads everything in small steps: (offset, key, value).
    fn all(partition: &PartitionLog) -> Vec<(u64, u8, Option<u8>)> {
        let mut found = Vec::new();
        let mut next = Offset::new(0);
        loop {
            let batch = read_now(partition, next, 60).unwrap();
            if batch.next == next {
                return found;
            }
            next = batch.next;
            let row = |s: super::super::super::Stored| {
                (s.offset.get(), s.record.key.unwrap()[0], s.record.value.map(|value| value[0]))
            };
            found.extend(batch.records.into_iter().map(row));
        }
    }

    proptest! {
        /// Compared with a model: young records stay, and the newest of each key; offsets do not change.
        #[test]
        fn the_newest_of_each_key_and_everything_young_stay(
            writes in proptest::collection::vec((0..6_u8, proptest::option::of(any::<u8>()), 0..2_000_i64), 1..120),
            cleans in proptest::collection::vec((0..120_usize, any::<bool>()), 1..5),
        ) {
            let disk = MemoryDisk::new();
            let mut partition = open(&disk);
            let mut written: Vec<(u64, u8, Option<u8>, i64)> = Vec::new();
            let mut now = 0;
            for (number, (key, value, pause)) in writes.into_iter().enumerate() {
                now += pause;
                let record = Record { key: Some(vec![key]), value: value.map(|v| vec![v]), headers: vec![] };
                put(&partition, now, &record);
                sync_partition(&partition).unwrap();
                written.push((u64::try_from(number).unwrap(), key, value, now));
                for (_, reopen) in cleans.iter().filter(|(at, _)| *at == number) {
                    clean(&partition, Millis::new(now)).unwrap();
                    if *reopen {
                        drop(partition);
                        disk.crash(|_| 0);
                        partition = open(&disk);
                    }
                }
                let found = all(&partition);
                for (offset, key, value, at) in &written {
                    let is_newest = !written.iter().any(|(later, k, ..)| k == key && later > offset);
                    let is_young = now - at < 10_000;
                    let is_gone_for_good = value.is_none() && now - at > 20_000;
                    if (is_newest && !is_gone_for_good) || is_young {
                        prop_assert!(found.contains(&(*offset, *key, *value)), "{offset} is missing");
                    }
                }
                prop_assert!(found.iter().all(|(o, k, v)| written.iter().any(|w| (w.0, w.1, w.2) == (*o, *k, *v))));
            }
        }
    }

    #[test]
    fn many_changes_of_few_keys_take_the_room_of_few() {
        let disk = MemoryDisk::new();
        let partition = open(&disk);
        for number in 0..2_000_i64 {
            let key = u8::try_from(number % 7).unwrap();
            let record = Record { key: Some(vec![key]), value: Some(vec![key; 20]), headers: vec![] };
            put(&partition, number, &record);
        }
        sync_partition(&partition).unwrap();
        clean(&partition, Millis::new(60_000)).unwrap();
        let (bytes, segments) = {
            let store = partition.store.read().unwrap();
            (store.bytes(), store.segments().count())
        };
        assert!(bytes < 1_000 && segments <= 4, "{bytes} bytes in {segments} segments");
        assert_eq!(partition.store.read().unwrap().next(), 2_000);
        let beyond = read_now(&partition, Offset::new(2_001), 60);
        assert!(matches!(beyond, Err(ReadError::BeyondEnd { .. })));
    }
}

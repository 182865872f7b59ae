//! A directory of segments as one append-only sequence of frames.
//!
//! Owns positions, rolling and dropping. Appending and syncing are separate, so that a group shares one sync.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::error::{SegmentError, io_error};
use super::frame::Frames;
use super::index;
use super::segment::Segment;

/// The kind and size of a store's files.
#[derive(Debug, Clone)]
pub struct Options {
    /// Four bytes that name the files' purpose.
    pub kind: [u8; 4],
    /// The oldest format of such files that is read.
    pub oldest: u16,
    /// A segment is rolled when it has so many bytes.
    pub segment_bytes: u64,
}

/// What opening found and repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Bytes of torn writes that were cut off.
    pub torn_bytes: u64,
    /// Whether the store is new.
    pub created: bool,
}

/// One segment, as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The first position.
    pub first: u64,
    /// The position after the last.
    pub end: u64,
    /// Its user's header.
    pub header: Vec<u8>,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A sync that is still to be done.
pub struct PendingSync {
    last: Option<(Arc<dyn DiskFile>, PathBuf)>,
}

impl PendingSync {
    /// Runs the sync. After a failure the store must be poisoned.
    pub fn run(self) -> Result<(), SegmentError> {
        self.last.map_or(Ok(()), |(file, path)| file.sync().map_err(io_error(&path)))
    }
}

fn remove_segment(disk: &dyn Disk, path: &Path) -> Result<(), SegmentError> {
    index::remove(disk, path)?;
    // An earlier attempt may have removed it, and failed later.
    if disk.exists(path) { disk.remove(path).map_err(io_error(path)) } else { Ok(()) }
}

/// The index is optional: without it the next start scans.
fn save_or_warn(segment: &Segment, disk: &dyn Disk) {
    if let Err(error) = segment.save_index(disk) {
        tracing::warn!(%error, "an index was not saved; the next start scans");
    }
}

/// A sequence of frames in segment files.
pub struct SegmentStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// Never empty; the last one is appended to.
    segments: VecDeque<Segment>,
    poisoned: bool,
}

impl SegmentStore {
    /// Opens the store in `dir`; a new one begins at position 0 with `header`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        header: &[u8],
    ) -> Result<(Self, Recovery), SegmentError> {
        disk.create_dir(dir).map_err(io_error(dir))?;
        let names = disk.list(dir).map_err(io_error(dir))?;
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| Segment::first_of(name)).collect();
        firsts.sort_unstable();
        for name in names.iter().filter(|name| name.ends_with(".new")) {
            let path = dir.join(name);
            disk.remove(&path).map_err(io_error(&path))?;
        }
        let mut recovery = Recovery { created: firsts.is_empty(), ..Recovery::default() };
        let mut segments: VecDeque<Segment> = VecDeque::new();
        for (index, first) in firsts.iter().enumerate() {
            let path = dir.join(Segment::file_name(*first));
            let is_last = index + 1 == firsts.len();
            let expected = segments.back().map_or(*first, Segment::next_position);
            if *first != expected {
                return Err(SegmentError::Gap { path, first: *first, expected });
            }
            match Segment::open(disk.as_ref(), &path, &options.kind, options.oldest, *first, is_last)? {
                Some((segment, torn)) => {
                    recovery.torn_bytes += torn;
                    segments.push_back(segment);
                }
                // An earlier version crashed while it made the file: no frame in it was ever acknowledged.
                None => {
                    segments.push_back(Segment::create(disk.as_ref(), dir, &options.kind, *first, header)?)
                }
            }
        }
        if segments.is_empty() {
            segments.push_back(Segment::create(disk.as_ref(), dir, &options.kind, 0, header)?);
        }
        Ok((Self { disk, dir: dir.to_owned(), options, segments, poisoned: false }, recovery))
    }

    /// The first position that is still held.
    pub fn first(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.first)
    }

    /// The position that the next frame gets.
    pub fn next(&self) -> u64 {
        self.segments.back().map_or(0, Segment::next_position)
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = Summary> {
        self.segments.iter().map(|s| Summary {
            first: s.first,
            end: s.next_position(),
            header: s.header.clone(),
            bytes: s.length,
        })
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Appends all frames or none; returns the first one's position. They survive a crash only after
    /// [`SegmentStore::sync`].
    pub fn append<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> Result<u64, SegmentError> {
        let mut frames = Frames::default();
        for payload in payloads {
            frames.push(|out| out.extend_from_slice(payload));
        }
        self.append_frames(&frames)
    }

    /// Appends frames that the caller has put together.
    pub fn append_frames(&mut self, frames: &Frames) -> Result<u64, SegmentError> {
        self.check_usable()?;
        frames.check()?;
        if self.segments.back().is_some_and(|s| s.length >= self.options.segment_bytes && s.count > 0) {
            let header = self.segments.back().map(|s| s.header.clone()).unwrap_or_default();
            self.roll(&header)?;
        }
        let first = self.next();
        let Some(last) = self.segments.back_mut() else {
            return Err(SegmentError::Poisoned { path: self.dir.clone() });
        };
        if let Err(error) = last.append(&frames.bytes, frames.count) {
            // A file that could not be cut back ends in garbage: nothing may be appended to it.
            self.poisoned = last.file.length().ok() != Some(last.length);
            return Err(error);
        }
        Ok(first)
    }

    /// Makes everything appended survive a crash. After a failure the store must be opened again.
    pub fn sync(&mut self) -> Result<(), SegmentError> {
        let synced = self.pending_sync()?.run();
        self.poisoned |= synced.is_err();
        synced
    }

    /// A sync that runs without the store: others may read meanwhile, but must not append.
    pub fn pending_sync(&self) -> Result<PendingSync, SegmentError> {
        self.check_usable()?;
        let last = self.segments.back().map(|last| (Arc::clone(&last.file), last.path.clone()));
        Ok(PendingSync { last })
    }

    /// Called after a pending sync has failed: nothing more is written until the store is opened again.
    pub const fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Saves the index of the last segment, so that the next start need not scan it. Call it only after a sync.
    pub fn save_index(&self) -> Result<(), SegmentError> {
        self.check_usable()?;
        self.segments.back().map_or(Ok(()), |last| last.save_index(self.disk.as_ref()))
    }

    /// Ends the present segment (synced) and begins one with another header.
    pub fn roll(&mut self, header: &[u8]) -> Result<(), SegmentError> {
        self.sync()?;
        let next = self.next();
        let created = Segment::create(self.disk.as_ref(), &self.dir, &self.options.kind, next, header);
        // An empty segment has the same name as the new one, which replaces it.
        let is_empty = self.segments.back().is_some_and(|last| last.count == 0);
        let path = self.dir.join(Segment::file_name(next));
        // If the new file exists, but perhaps not durably, nothing may be appended to the old segment.
        let segment = created.inspect_err(|_| self.poisoned |= is_empty || self.disk.exists(&path))?;
        if is_empty {
            self.segments.pop_back();
        }
        self.segments.push_back(segment);
        let count = self.segments.len();
        if let Some(sealed) = count.checked_sub(2).and_then(|index| self.segments.get(index)) {
            save_or_warn(sealed, self.disk.as_ref());
        }
        Ok(())
    }

    /// Gives frames from a position on to `take`, until that returns `false`.
    pub fn read(&self, from: u64, mut take: impl FnMut(u64, Vec<u8>) -> bool) -> Result<(), SegmentError> {
        if from < self.first() || from > self.next() {
            return Err(SegmentError::OutOfRange { wanted: from, first: self.first(), next: self.next() });
        }
        let begin = self.segments.partition_point(|s| s.next_position() <= from);
        let mut going = true;
        for segment in self.segments.iter().skip(begin) {
            segment.read(from.max(segment.first), |position, payload| {
                going = take(position, payload);
                going
            })?;
            if !going {
                break;
            }
        }
        Ok(())
    }

    /// One frame; `None` at the end.
    pub fn get(&self, position: u64) -> Result<Option<Vec<u8>>, SegmentError> {
        let mut found = None;
        self.read(position, |_, payload| {
            found = Some(payload);
            false
        })?;
        Ok(found)
    }

    /// Removes whole segments that end at or before a position; the last one stays, because it continues the positions.
    pub fn drop_before(&mut self, position: u64) -> Result<(), SegmentError> {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.next_position() <= position)
        {
            if let Some(segment) = self.segments.front() {
                remove_segment(self.disk.as_ref(), &segment.path)?;
            }
            self.segments.pop_front();
        }
        self.disk.sync_dir(&self.dir).map_err(io_error(&self.dir))
    }

    /// Cuts off the newest frames, from a position in the last segment on.
    pub fn truncate_from(&mut self, position: u64) -> Result<(), SegmentError> {
        let first = self.segments.back().map_or(0, |s| s.first);
        let next = self.next();
        if position >= next {
            return Ok(());
        }
        match self.segments.back_mut() {
            Some(last) if position >= first => last.truncate_from(self.disk.as_ref(), position),
            _ => Err(SegmentError::OutOfRange { wanted: position, first, next }),
        }
    }

    fn check_usable(&self) -> Result<(), SegmentError> {
        if self.poisoned { Err(SegmentError::Poisoned { path: self.dir.clone() }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_disk::MemoryDisk;
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: Options = Options { kind: *b"test", oldest: 2, segment_bytes: 200 };

    fn open(disk: &MemoryDisk) -> (SegmentStore, Recovery) {
        SegmentStore::open(Arc::new(disk.clone()), Path::new("/s"), OPTIONS, b"head").unwrap()
    }

    fn all(store: &SegmentStore) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        store
            .read(store.first(), |position, payload| {
                found.push((position, payload));
                true
            })
            .unwrap();
        found
    }

    #[test]
    fn dropped_segments_leave_positions_as_they_were() {
        let disk = MemoryDisk::new();
        let (mut store, recovery) = open(&disk);
        assert!(recovery.created);
        for byte in 0..50_u8 {
            store.append([[byte; 20].as_slice()]).unwrap();
        }
        store.sync().unwrap();
        assert!(store.segments().count() > 5);
        store.drop_before(30).unwrap();
        assert!(store.first() <= 30 && store.first() > 20);
        store.roll(b"new").unwrap();
        store.drop_before(50).unwrap();
        drop(store);
        let (store, _) = open(&disk);
        assert_eq!((store.first(), store.next()), (50, 50), "an emptied log never restarts at 0");
        assert_eq!(store.segments().map(|s| s.header).collect::<Vec<_>>(), [b"new".to_vec()]);
        assert!(matches!(store.get(49), Err(SegmentError::OutOfRange { .. })));
    }

    #[test]
    fn a_full_disk_refuses_and_loses_nothing() {
        let disk = MemoryDisk::new();
        let (mut store, _) = open(&disk);
        store.append([b"one".as_slice()]).unwrap();
        disk.set_room(Some(5));
        assert!(matches!(store.append([b"two".as_slice()]), Err(SegmentError::Io { .. })));
        disk.set_room(None);
        store.append([b"three".as_slice()]).unwrap();
        store.sync().unwrap();
        drop(store);
        assert_eq!(all(&open(&disk).0), [(0, b"one".to_vec()), (1, b"three".to_vec())]);
    }

    #[test]
    fn damage_in_the_middle_is_named_and_a_torn_end_is_cut() {
        let disk = MemoryDisk::new();
        let (mut store, _) = open(&disk);
        store.append([b"one".as_slice(), b"two"]).unwrap();
        store.sync().unwrap();
        let path = Path::new("/s").join(Segment::file_name(0));
        let first_payload = 10 + 8 + 4 + 8;
        disk.damage(&path, first_payload);
        let error = SegmentStore::open(Arc::new(disk.clone()), Path::new("/s"), OPTIONS, b"head").map(drop);
        assert!(matches!(error, Err(SegmentError::Damaged { .. })));
        disk.damage(&path, first_payload);
        disk.damage(&path, first_payload + 3 + 8);
        let (store, recovery) = open(&disk);
        assert_eq!(all(&store), [(0, b"one".to_vec())]);
        assert_eq!(recovery.torn_bytes, 11);
    }

    #[test]
    fn a_newer_format_and_a_foreign_file_are_refused_by_name() {
        let disk = MemoryDisk::new();
        drop(open(&disk));
        let path = Path::new("/s").join(Segment::file_name(0));
        let reopen = || {
            let error =
                SegmentStore::open(Arc::new(disk.clone()), Path::new("/s"), OPTIONS, b"head").map(drop);
            error.map_err(|e| e.to_string())
        };
        let later = Options { oldest: 9, ..OPTIONS };
        let older = SegmentStore::open(Arc::new(disk.clone()), Path::new("/s"), later, b"head").map(drop);
        assert!(older.unwrap_err().to_string().contains("this binary reads formats from 9 on"));
        disk.damage(&path, 5);
        assert!(reopen().unwrap_err().contains("use a newer dit"));
        disk.damage(&path, 5);
        disk.damage(&path, 7);
        assert!(reopen().unwrap_err().contains("is not a dit test file"));
    }

    proptest! {
        /// Compared with a model: after any crash the store has every synced frame, in order, and a prefix of the rest.
        #[test]
        fn a_crash_loses_only_what_was_not_synced(
            steps in proptest::collection::vec((proptest::collection::vec(0..60_usize, 1..4), any::<bool>()), 1..30),
            keep in any::<prop::sample::Index>(),
        ) {
            let disk = MemoryDisk::new();
            let (mut store, _) = open(&disk);
            let mut written = Vec::new();
            let mut synced = 0;
            for (sizes, sync) in steps {
                let payloads: Vec<Vec<u8>> =
                    sizes.iter().map(|size| vec![u8::try_from(written.len() % 251).unwrap(); *size]).collect();
                store.append(payloads.iter().map(Vec::as_slice)).unwrap();
                written.extend(payloads);
                if sync {
                    store.sync().unwrap();
                    synced = written.len();
                }
            }
            drop(store);
            disk.crash(|unsynced| keep.index(unsynced + 1));
            let (store, _) = open(&disk);
            let found: Vec<Vec<u8>> = all(&store).into_iter().map(|(_, payload)| payload).collect();
            prop_assert!(found.len() >= synced);
            prop_assert_eq!(&found[..], &written[..found.len()]);
        }
    }
}

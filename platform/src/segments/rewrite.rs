//! Rewrites sealed segments without the frames that a compacted log no longer needs.
//!
//! Owns the new file until [`super::SegmentStore::install`] puts it in the segments' place. Positions stay; removed
//! frames become gaps. It works on a snapshot, so that appending and reading continue meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use super::checked_file::discard;
use super::disk::{Disk, DiskFile};
use super::error::{SegmentError, io_error};
use super::frame;
use super::index::Index;
use super::segment::Segment;

const WRITE_BYTES: usize = 256 * 1024;

/// A segment that is not appended to any more.
#[derive(Clone)]
pub struct Sealed {
    pub(super) segment: Segment,
    pub(super) kind: [u8; 4],
}

impl Sealed {
    /// The first position.
    pub const fn first(&self) -> u64 {
        self.segment.first
    }

    /// The position after the last.
    pub const fn end(&self) -> u64 {
        self.segment.next_position()
    }

    /// Bytes on disk.
    pub const fn bytes(&self) -> u64 {
        self.segment.length
    }

    /// Gives its newest frame to `take`, if it has any.
    pub fn read_last(&self, take: impl FnOnce(&[u8])) -> Result<(), SegmentError> {
        let mut last = None;
        let mut from = self.end().saturating_sub(1).max(self.first());
        loop {
            self.segment.read(from, |_, payload| {
                last = Some(payload);
                true
            })?;
            if last.is_some() || from <= self.first() {
                break;
            }
            // The end is a gap: look further back.
            from = self.first().max(from.saturating_sub(self.end() - from));
        }
        if let Some(last) = last {
            take(&last);
        }
        Ok(())
    }

    /// Gives its frames to `take` until that returns `false`.
    pub fn read(&self, take: impl FnMut(u64, Vec<u8>) -> bool) -> Result<(), SegmentError> {
        self.segment.read(self.segment.first, take)
    }
}

/// The new file; drop removes it unless it was installed.
struct Fresh {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    is_installed: bool,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.is_installed {
            discard(self.disk.as_ref(), &self.path, self.file.as_ref());
        }
    }
}

/// An unfinished segment that will replace one or more sealed ones.
pub struct Rewrite {
    fresh: Fresh,
    buffer: Vec<u8>,
    /// Positions of a gap that is not written yet.
    gap: u64,
    kind: [u8; 4],
    /// The segment as it will be; `count` grows with each absorbed segment.
    pub(super) segment: Segment,
}

impl Rewrite {
    /// Begins a rewrite at a sealed segment's first position.
    pub fn begin(disk: &Arc<dyn Disk>, sealed: &Sealed) -> Result<Self, SegmentError> {
        let path = sealed.segment.path.clone();
        let first = sealed.first();
        let beside = path.with_extension("seg.new");
        let file = disk.open(&beside).map_err(io_error(&beside))?;
        file.truncate(0).map_err(io_error(&beside))?;
        let disk = Arc::clone(disk);
        let opened = Arc::clone(&file);
        let fresh = Fresh { disk, path: beside, file: opened, is_installed: false };
        let header = sealed.segment.header.clone();
        let buffer = Segment::prelude(&sealed.kind, &header);
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let index = Index::new(first, length);
        let segment = Segment { path, file, header, first, count: 0, length, index };
        Ok(Self { fresh, buffer, gap: 0, kind: sealed.kind, segment })
    }

    /// Whether a sealed segment may follow: it is the next one, and its user's header is the same.
    pub fn takes(&self, sealed: &Sealed) -> bool {
        let next = self.segment.next_position();
        sealed.first() == next && sealed.kind == self.kind && sealed.segment.header == self.segment.header
    }

    /// Bytes so far.
    pub const fn bytes(&self) -> u64 {
        self.segment.length
    }

    /// Takes over a sealed segment's frames, if `keep` returns `true` for them.
    pub fn absorb(
        &mut self,
        sealed: &Sealed,
        mut keep: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        let mut position = sealed.first();
        let mut outcome = Ok(());
        sealed.read(|at, payload| {
            self.gap += at - position;
            position = at + 1;
            if keep(at, &payload) {
                outcome = self.put(at, &payload);
            } else {
                self.gap += 1;
            }
            outcome.is_ok()
        })?;
        outcome?;
        self.gap += sealed.end() - position;
        self.segment.count = sealed.end() - self.segment.first;
        Ok(())
    }

    fn put(&mut self, position: u64, payload: &[u8]) -> Result<(), SegmentError> {
        let before = self.buffer.len();
        self.close_gap();
        let gap_bytes = self.buffer.len() - before;
        self.segment.length += u64::try_from(gap_bytes).unwrap_or(u64::MAX);
        self.segment.index.note(position, self.segment.length);
        let before = self.buffer.len();
        frame::put(&mut self.buffer, payload);
        self.segment.length += u64::try_from(self.buffer.len() - before).unwrap_or(u64::MAX);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn close_gap(&mut self) {
        if self.gap > 0 {
            frame::put_gap(&mut self.buffer, self.gap);
            self.gap = 0;
        }
    }

    fn flush(&mut self) -> Result<(), SegmentError> {
        self.segment.file.append(&self.buffer).map_err(io_error(&self.fresh.path))?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes and syncs the rest; ready to be installed.
    pub fn finish(mut self) -> Result<Rewritten, SegmentError> {
        let before = self.buffer.len();
        self.close_gap();
        self.segment.length += u64::try_from(self.buffer.len() - before).unwrap_or(u64::MAX);
        self.flush()?;
        self.segment.file.sync().map_err(io_error(&self.fresh.path))?;
        Ok(Rewritten { fresh: self.fresh, segment: self.segment })
    }
}

/// A rewritten segment that is not installed yet.
pub struct Rewritten {
    fresh: Fresh,
    pub(super) segment: Segment,
}

impl Rewritten {
    /// Renames it over the first of the segments that it replaces.
    pub(super) fn rename(&mut self) -> Result<(), SegmentError> {
        let path = &self.segment.path;
        self.fresh.disk.rename(&self.fresh.path, path).map_err(io_error(path))?;
        self.fresh.is_installed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::memory_disk::MemoryDisk;
    use super::super::{Options, SegmentStore};
    use super::*;

    fn open(disk: &MemoryDisk) -> SegmentStore {
        let options = Options { kind: *b"test", oldest: 1, segment_bytes: 150 };
        SegmentStore::open(Arc::new(disk.clone()), Path::new("/s"), options, b"head").unwrap().0
    }

    fn all(store: &SegmentStore) -> Vec<(u64, u8)> {
        let mut found = Vec::new();
        store
            .read(store.first(), |position, payload| {
                found.push((position, payload[0]));
                true
            })
            .unwrap();
        found
    }

    /// Rewrites all sealed segments, `group` of them into one.
    fn rewrite(disk: &MemoryDisk, store: &mut SegmentStore, group: usize, keep: impl Fn(u64) -> bool) {
        for sealed in store.sealed().chunks(group) {
            let mut rewrite = Rewrite::begin(&(Arc::new(disk.clone()) as Arc<dyn Disk>), &sealed[0]).unwrap();
            for one in sealed {
                assert!(rewrite.takes(one));
                rewrite.absorb(one, |position, _| keep(position)).unwrap();
            }
            store.install(rewrite.finish().unwrap()).unwrap();
        }
    }

    proptest! {
        /// Compared with a model: kept frames stay at their positions, through any number of rewrites and restarts.
        #[test]
        fn kept_frames_keep_their_positions(
            sizes in proptest::collection::vec(1..60_usize, 1..80),
            rewrites in proptest::collection::vec((1..4_usize, any::<u64>(), any::<bool>()), 1..4),
        ) {
            let disk = MemoryDisk::new();
            let mut store = open(&disk);
            let mut model = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let byte = u8::try_from(number).unwrap();
                store.append([vec![byte; *size].as_slice()]).unwrap();
                model.push((u64::from(byte), byte));
            }
            store.sync().unwrap();
            for (group, bits, reopen) in rewrites {
                let sealed_to = store.sealed().last().map_or(0, Sealed::end);
                let keep = |position: u64| bits >> (position % 64) & 1 == 1;
                rewrite(&disk, &mut store, group, keep);
                model.retain(|(position, _)| *position >= sealed_to || keep(*position));
                if reopen {
                    drop(store);
                    disk.crash(|_| 0);
                    store = open(&disk);
                }
                prop_assert_eq!(all(&store), model.clone());
                prop_assert_eq!(store.next(), u64::try_from(sizes.len()).unwrap());
                for position in 0..store.next() {
                    let expected = model.iter().find(|(at, _)| *at == position).map(|(_, byte)| *byte);
                    prop_assert_eq!(store.get(position).unwrap().map(|payload| payload[0]), expected);
                }
            }
        }
    }

    #[test]
    fn a_crash_before_the_replaced_segments_are_removed_leaves_nothing_twice() {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        for byte in 0..60 {
            store.append([[byte; 20].as_slice()]).unwrap();
        }
        store.sync().unwrap();
        let sealed = store.sealed();
        let second = sealed[1].segment.path.clone();
        let bytes = {
            let file = disk.open(&second).unwrap();
            let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
            file.read_at(&mut bytes, 0).unwrap();
            bytes
        };
        rewrite(&disk, &mut store, 3, |position| position % 2 == 0);
        let expected = all(&store);
        drop(store);
        // The files after such a crash: the merged segment, and one of the segments that it replaced.
        let file = disk.open(&second).unwrap();
        file.append(&bytes).unwrap();
        disk.open(Path::new("/s/x.seg.new")).unwrap();
        assert_eq!(all(&open(&disk)), expected);
        assert!(!disk.exists(&second) && !disk.exists(Path::new("/s/x.seg.new")));
    }
}

//! A disk in memory that can crash, tear writes and be full: the twin that tests and simulation use.
//!
//! Owns its faults. After [`MemoryDisk::crash`] a file holds its synced bytes and a part of the others.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

#[derive(Debug, Default)]
struct Contents {
    data: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    room: Option<usize>,
    fails_syncs: bool,
    /// How many writes still succeed; `None` means all.
    left: Option<usize>,
}

impl State {
    /// Counts a write, sync or rename before it is made.
    fn write(&mut self) -> io::Result<()> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk has stopped")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// A disk in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl MemoryDisk {
    /// An empty disk of unlimited size.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes that can be appended from now on; `None` means no limit.
    pub fn set_room(&self, room: Option<usize>) {
        lock(&self.0).room = room;
    }

    /// From now on no sync succeeds, as on a failing disk.
    pub fn fail_syncs(&self) {
        lock(&self.0).fails_syncs = true;
    }

    /// After so many writes, syncs and renames nothing more is written until the machine stops.
    pub fn stop_after(&self, writes: usize) {
        lock(&self.0).left = Some(writes);
    }

    /// Whether nothing is written any more.
    pub fn has_stopped(&self) -> bool {
        lock(&self.0).left == Some(0)
    }

    /// The machine stops: each file keeps its synced bytes and `keep(unsynced)` of the others.
    pub fn crash(&self, mut keep: impl FnMut(usize) -> usize) {
        let mut state = lock(&self.0);
        state.left = None;
        for file in state.files.values() {
            let mut contents = lock(file);
            let unsynced = contents.data.len() - contents.synced;
            let kept = contents.synced + keep(unsynced).min(unsynced);
            contents.data.truncate(kept);
            contents.synced = kept;
        }
    }

    /// A copy of all its files, as a backup makes it.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        copy.become_copy_of(self);
        copy
    }

    /// Restores a backup: its files become copies of the other disk's. Files that are open no longer belong to it.
    pub fn become_copy_of(&self, other: &Self) {
        let copied = |file: &Arc<Mutex<Contents>>| {
            let data = lock(file).data.clone();
            let synced = data.len();
            Arc::new(Mutex::new(Contents { data, synced }))
        };
        let files = lock(&other.0).files.iter().map(|(path, file)| (path.clone(), copied(file))).collect();
        lock(&self.0).files = files;
    }

    /// Changes one byte of a file, as a failing disk would.
    pub fn damage(&self, path: &Path, at: usize) {
        if let Some(file) = lock(&self.0).files.get(path)
            && let Some(byte) = lock(file).data.get_mut(at)
        {
            *byte ^= 0x40;
        }
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = lock(&self.0);
        let inside =
            state.files.keys().filter_map(|path| path.strip_prefix(dir).ok()?.iter().next()?.to_str());
        let mut names: Vec<String> = inside.map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let contents = Arc::clone(lock(&self.0).files.entry(path.to_owned()).or_default());
        Ok(Arc::new(MemoryFile { disk: self.clone(), contents }))
    }

    fn exists(&self, path: &Path) -> bool {
        lock(&self.0).files.contains_key(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).write()?;
        lock(&self.0).files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.write()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    contents: Arc<Mutex<Contents>>,
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(u64::try_from(lock(&self.contents).data.len()).unwrap_or(u64::MAX))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.write()?;
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        state.room = state.room.map(|room| room - fits);
        lock(&self.contents).data.extend_from_slice(bytes.get(..fits).unwrap_or_default());
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let contents = lock(&self.contents);
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let available = contents.data.get(start..).unwrap_or_default();
        let count = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        lock(&self.disk.0).write()?;
        let mut contents = lock(&self.contents);
        contents.data.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        contents.synced = contents.synced.min(contents.data.len());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.write()?;
        if state.fails_syncs {
            return Err(io::Error::other("the disk does not sync"));
        }
        let mut contents = lock(&self.contents);
        contents.synced = contents.data.len();
        Ok(())
    }
}

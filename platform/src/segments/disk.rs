//! The disk trait that segment files need, and the real disk.
//!
//! Owns the trait; its twin in memory loses unsynced bytes on purpose.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// A disk that files are appended to.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and its parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files and directories in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file, making it when it is missing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Whether a file is there.
    fn exists(&self, path: &Path) -> bool;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing one that has the name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes names in a directory survive a crash.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file; many may read it, only one appends.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Appends all of `bytes`, or fails having appended some of them.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Reads at an offset; returns how many bytes it read.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Cuts it to a length.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes its bytes survive a crash.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        crate::closed::create_folder(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        // Registers and replicas hold personal data.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.0).write_all(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = at + u64::try_from(done).unwrap_or(u64::MAX);
            match std::os::unix::fs::FileExt::read_at(&self.0, rest, offset)? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

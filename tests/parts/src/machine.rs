//! What a machine does to the processes on it: a clock that is off, a small disk of a process's own.
//!
//! Owns the means for both. The disk is a memory file system in the process's own mount namespace, which others reach
//! through `/proc`; the clock is libfaketime's.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The environment of a process whose calendar clock is off, such as `+1h`. Its monotonic clocks are the machine's.
pub fn clock_off_by(offset: &str) -> Result<Vec<(String, String)>> {
    let library = |dir: std::fs::DirEntry| Some(dir.path().join("faketime/libfaketime.so.1"));
    let dirs = std::fs::read_dir("/usr/lib")?.filter_map(|dir| library(dir.ok()?));
    let library = dirs.into_iter().find(|path| path.exists());
    let library = library.context("please install faketime (libfaketime.so.1)")?.display().to_string();
    let word = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Ok(vec![
        word("LD_PRELOAD", &library),
        word("FAKETIME", offset),
        word("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ])
}

/// The disk that one process has below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnDisk {
    /// A disk of so many mebibytes, empty at first.
    Small(u32),
    /// The existing files, which cannot be written.
    ReadOnly,
}

/// Writes a command to use in place of `program`: it gives one of the subcommands a disk of its own, on a folder of its
/// working directory.
pub fn with_disk(program: &str, subcommand: &str, folder: &str, disk: OwnDisk, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mount = match disk {
        OwnDisk::Small(mebibytes) => format!("mount -t tmpfs -o size={mebibytes}m tmpfs \"$PWD/{folder}\""),
        OwnDisk::ReadOnly => {
            let place = format!("\"$PWD/{folder}\"");
            format!("mount --bind {place} {place} && mount -o remount,bind,ro {place}")
        }
    };
    let script = format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" != {subcommand} ]; then exec {program} \"$@\"; fi\nmkdir -p {folder}\n\
         exec unshare -rm sh -c '{mount} && exec {program} \"$@\"' sh \"$@\"\n"
    );
    std::fs::write(to, script)?;
    Ok(std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?)
}

/// A process's own disk.
pub struct SmallDisk {
    process: u32,
    folder: PathBuf,
}

impl SmallDisk {
    /// The disk on an absolute folder, as a process sees it.
    pub fn of(process: u32, folder: &Path) -> Self {
        Self { process, folder: folder.to_owned() }
    }

    /// Where other processes reach a file on it.
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.strip_prefix("/").unwrap_or(&self.folder);
        Path::new("/proc").join(self.process.to_string()).join("root").join(folder).join(name)
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.path("filler"))?;
        // Down to the last byte: whole pages first.
        for length in [4_096, 1] {
            while filler.write_all(&vec![0; length]).is_ok() {}
        }
        Ok(())
    }

    pub fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.path("filler")).context("the filler")
    }
}

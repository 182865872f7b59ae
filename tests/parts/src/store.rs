//! Where fetched parts are kept: outside the source tree, fetched once, by one process at a time.
//!
//! Owns the folder (`DIT_PARTS`, else `~/.cache/dit/parts`) and its lock. A part is whole or not there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DIT_PARTS") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("set HOME, or DIT_PARTS to a folder for fetched parts")?;
    Ok(PathBuf::from(home).join(".cache/dit/parts"))
}

/// The folder of a part; `fetch` fills it when it is not there yet.
pub(crate) fn part(name: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parts = folder()?;
    fs::create_dir_all(&parts).with_context(|| format!("cannot make {}", parts.display()))?;
    let whole = parts.join(name);
    let lock = File::create(parts.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !whole.exists() {
        let fetched = tempfile::Builder::new().prefix("fetch-").tempdir_in(&parts)?;
        fetch(fetched.path()).with_context(|| format!("{name} cannot be fetched"))?;
        fs::rename(fetched.keep(), &whole)?;
    }
    Ok(whole)
}

/// A folder for a part's own files; it is removed at the end, or by a later start if the end was too sudden.
pub(crate) struct Workplace {
    dir: TempDir,
    /// Locked while its process lives.
    _alive: File,
}

impl Workplace {
    const PREFIX: &str = "dit-part-";

    /// A new one; those of ended processes are removed.
    pub(crate) fn new() -> Result<Self> {
        // Until its file is locked, another start would take this one for left.
        let starting = File::create(std::env::temp_dir().join(format!("{}starting", Self::PREFIX)))?;
        starting.lock()?;
        let dir = tempfile::Builder::new().prefix(Self::PREFIX).tempdir()?;
        let alive = File::create(dir.path().join("alive"))?;
        alive.lock()?;
        for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(Self::PREFIX);
            let is_left = || File::open(entry.path().join("alive")).is_ok_and(|file| file.try_lock().is_ok());
            if is_ours && is_left() {
                // Another process may be removing it too.
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        Ok(Self { dir, _alive: alive })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Runs a program to its end; the error has its output.
pub(crate) fn run(command: &mut Command, package: &str) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{} is missing: install {package}", program.display())
        }
        outcome => outcome?,
    };
    ensure!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

//! The folder of real registers and outside test vectors, from `DIT_REAL_DATA`.
//!
//! Owns the rule that a test which is left out says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A part of the real data; `None`, with a word on standard error, when this machine has none.
pub fn folder(test: &str, part: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("DIT_REAL_DATA") else {
        eprintln!("LEFT OUT: {test} needs DIT_REAL_DATA with {part}");
        return None;
    };
    Some(PathBuf::from(root).join(part))
}

/// Unpacks a `.tar.zst` into a folder (by the `tar` and `zstd` programs).
pub fn unpack(archive: &Path, into: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(into)?;
    let status = Command::new("tar")
        .arg("--use-compress-program=zstd -d --long=27")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(into)
        .status()
        .context("tar could not be started")?;
    if !status.success() {
        bail!("{} could not be unpacked: are tar and zstd installed?", archive.display());
    }
    Ok(())
}

/// The folders in a folder, in order of their names.
pub fn folders_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// The files below a folder, in order of their names.
pub fn files_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The columns of the Latvian places' files, which have no header.
pub const LV_HEADER: &str =
    "country,postal_code,place,admin1,admin1_code,parish,admin2_code,admin3,admin3_code,lat,lon,accuracy";

/// All territories that occur in the Latvian places' files.
pub fn territories(files: &[PathBuf]) -> Vec<String> {
    let mut codes = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        codes.extend(text.lines().filter_map(|line| line.split('\t').nth(4)).map(str::to_owned));
    }
    codes.into_iter().collect()
}

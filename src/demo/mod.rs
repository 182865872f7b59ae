//! The demos: a network in one process, registers' versions played through it, and the replicas verified.
//!
//! Owns no rule: it calls the same entries as the binaries. The verification shares no code with the delivery.

pub mod backing;
pub mod company;
pub mod fault;
pub mod guess;
pub mod layout;
pub mod network;
pub mod progress;
mod raw;
pub mod register;
pub mod replicas;
mod story;
pub mod tables;
pub mod verify;

use std::path::{Path, PathBuf};

use anyhow::bail;

/// The peak memory of this process, where the system reports it (Linux).
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

/// Where a demo keeps everything: the user's folder, which must be new to it, or a temporary one.
fn folder(keep: Option<&Path>, temporary: &Path) -> anyhow::Result<PathBuf> {
    let Some(keep) = keep else { return Ok(temporary.to_owned()) };
    if keep.join("log").exists() {
        bail!("{} holds an earlier demo; give an empty folder", keep.display());
    }
    std::fs::create_dir_all(keep)?;
    Ok(keep.to_owned())
}

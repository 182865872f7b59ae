//! Folders and files that only their owner may read.
//!
//! Owns how they are made, repaired and refused. Registers and replicas hold personal data; keys are secrets.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const OWNER_ALONE: u32 = 0o700;
/// How many levels of folders are closed.
#[cfg(unix)]
const DEEPEST: u32 = 8;
const BEYOND_OWNER: u32 = 0o077;

/// A secret that others can read.
#[derive(Debug, thiserror::Error)]
#[error("{path} can be read by others on this machine (mode {mode:o}): chmod 600 {path}")]
pub struct Open {
    pub path: PathBuf,
    pub mode: u32,
}

/// Makes a folder that only its owner can enter; closes an existing one that others can enter, with its contents.
pub fn folder(path: &Path) -> io::Result<()> {
    create_folder(path)?;
    #[cfg(unix)]
    {
        let closed = close(path, DEEPEST);
        if closed > 0 {
            tracing::warn!(path = %path.display(), closed, "other users could read this folder or files in it; dit has removed their rights");
        }
    }
    Ok(())
}

/// Why a password cannot be read from its file.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Others can read it.
    #[error(transparent)]
    Open(#[from] Open),
    #[error("{path}: {error}")]
    File {
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Reads a password from a file that holds only the password, perhaps with a line end.
pub fn password(path: &Path) -> Result<String, PasswordError> {
    secret(path)?;
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|error| PasswordError::File { path: path.to_owned(), error })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Why a folder is not held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another process works in it.
    #[error("{path}: another process works in this folder; each needs one of its own")]
    InUse { path: PathBuf },
    /// The system cannot lock it.
    #[error("{path}: {error}")]
    Unsure { path: PathBuf, error: io::Error },
}

/// Keeps other processes out of a folder of ours while the returned file lives.
pub fn hold(folder: &Path, name: &str) -> Result<File, HoldError> {
    let path = folder.join(name);
    let unsure = |error| HoldError::Unsure { path: path.clone(), error };
    let lock = create(&path).map_err(unsure)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(HoldError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unsure(error)),
    }
}

/// Like [`hold`], but a disk without locks is accepted with a warning.
pub fn hold_if_sure(folder: &Path) -> Result<Option<File>, HoldError> {
    match hold(folder, ".lock") {
        Err(error @ HoldError::Unsure { .. }) => {
            tracing::warn!(%error, "the folder cannot be locked; make sure that no other agent works in it");
            Ok(None)
        }
        held => held.map(Some),
    }
}

/// Closes files that a library has made in a folder of ours: libraries do not set narrow rights.
pub fn seal(path: &Path) {
    #[cfg(unix)]
    close(path, DEEPEST);
    #[cfg(not(unix))]
    let _ = path;
}

/// Makes a folder and its parents; only their owner can enter the new ones.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, OWNER_ALONE);
    builder.create(path)
}

/// Removes the rights of others from a folder and its contents; returns how many it changed.
#[cfg(unix)]
fn close(path: &Path, deeper: u32) -> u64 {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    if metadata.is_symlink() {
        return 0;
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let mut closed = 0;
    if mode & BEYOND_OWNER != 0 {
        // Only the owner of a foreign volume can close it.
        match std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & !BEYOND_OWNER)) {
            Ok(()) => closed += 1,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "other users can read this, and dit cannot remove their rights; its owner must do it")
            }
        }
    }
    if metadata.is_dir() && deeper > 0 {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        closed += entries.map(|entry| close(&entry.path(), deeper - 1)).sum::<u64>();
    }
    closed
}

/// Makes or empties a file that only its owner can read.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a file that only its owner can read.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    io::Write::write_all(&mut create(path)?, bytes.as_ref())
}

/// Refuses a secret that others can read: the permissions of the file and of every folder above it allow it.
pub fn secret(path: &Path) -> Result<(), Open> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The later read reports a file that cannot be opened.
        let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
        let mode = metadata.permissions().mode() & 0o777;
        let is_entered = |folder: &Path| {
            std::fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
        };
        let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if mode & 0o007 != 0 && whole.ancestors().skip(1).all(is_entered) {
            return Err(Open { path: path.to_owned(), mode });
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_is_held_by_one_and_a_password_is_told_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let held = hold(dir.path(), "lock").unwrap();
        let refused = hold(dir.path(), "lock").unwrap_err().to_string();
        assert!(refused.contains("another process works in this folder"), "{refused}");
        drop(held);
        assert!(hold(dir.path(), "lock").is_ok());
        let nowhere = dir.path().join("nowhere");
        assert!(matches!(hold(&nowhere, "lock"), Err(HoldError::Unsure { .. })));
        assert!(matches!(hold_if_sure(&nowhere), Ok(None)), "an agent goes on");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join("password");
        write(&file, " with blanks \r\n").unwrap();
        assert_eq!(password(&file).unwrap(), " with blanks ");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        // Other users cannot reach the file if a folder above it is closed.
        let is_reached = dir.path().ancestors().skip(1).all(|folder| mode_of(folder) & 0o001 != 0);
        assert_eq!(password(&file).is_err(), is_reached);
        assert!(password(&dir.path().join("none")).unwrap_err().to_string().contains("none: "));
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode())
    }

    #[test]
    fn what_stands_open_is_closed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        folder(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("row"), "r").unwrap();
        std::fs::set_permissions(path.join("row"), std::fs::Permissions::from_mode(0o644)).unwrap();
        folder(&path).unwrap();
        assert_eq!((mode(&path), mode(&path.join("row"))), (0o700, 0o600));
        let key = dir.path().join("key");
        std::fs::write(&key, "k").unwrap();
        for (door, mode, is_good) in
            [(0o755, 0o600, true), (0o755, 0o640, true), (0o755, 0o644, false), (0o700, 0o644, true)]
        {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(door)).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(secret(&key).is_ok(), is_good, "{door:o} {mode:o}");
        }
        assert!(secret(&dir.path().join("none")).is_ok());
    }
}

//! Folders and files that their owner alone may read.
//!
//! Owns how they are made, mended and refused. Registers and replicas hold personal data; keys are keys.

use std::io;
use std::path::{Path, PathBuf};

const OWNER_ALONE: u32 = 0o700;
const BEYOND_OWNER: u32 = 0o077;

/// A secret that others can read.
#[derive(Debug, thiserror::Error)]
#[error("{path} can be read by others on this machine (mode {mode:o}): chmod 600 {path}")]
pub struct Open {
    /// The file.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
}

/// Makes a folder that only its owner can enter; one that others can enter is closed, with a warning.
pub fn folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new().recursive(true).mode(OWNER_ALONE).create(path)?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & BEYOND_OWNER != 0 {
            tracing::warn!(path = %path.display(), mode = %format_args!("{mode:o}"), "others could enter this folder; it is closed now");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & !BEYOND_OWNER))?;
        }
        Ok(())
    }
    #[cfg(not(unix))]
    std::fs::create_dir_all(path)
}

/// A new or emptied file that its owner alone can read.
pub fn create(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a file that its owner alone can read.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    io::Write::write_all(&mut create(path)?, bytes.as_ref())
}

/// Refuses a secret that others can read: its own permissions let them, and those of every folder above it.
pub fn secret(path: &Path) -> Result<(), Open> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A file that cannot be looked at is told by whoever reads it.
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
    fn what_stands_open_is_closed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        folder(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
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

//! Single changes that come in addition to dropped files: they are newer than a file that was dropped before them.
//!
//! Owns the mark of the last single change, in `taken/`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use platform::clock;

use super::DropError;
use super::last::{self, Last};

/// Its modification time is the time of the last single change.
const SINGLE: &str = ".single";

/// Where single changes leave their mark.
#[derive(Debug, Clone)]
pub struct Singles {
    dir: PathBuf,
}

impl Singles {
    /// For this drop folder.
    pub fn beside(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Changes are about to be taken: a register that was dropped before them may not be compared with or accepted any
    /// more.
    pub fn about_to_take(&self) -> Result<(), DropError> {
        last::change(&self.dir, |last| {
            self.mark()?;
            Ok(last.is_full.then(|| Last { file: String::new(), is_full: false, ..last }))
        })
    }

    fn mark(&self) -> Result<(), DropError> {
        let path = self.dir.join("taken").join(SINGLE);
        let mark = || {
            let since = Duration::from_millis(u64::try_from(clock::now().get()).unwrap_or_default());
            let options = File::options().create(true).truncate(false).write(true).open(&path)?;
            options.set_modified(UNIX_EPOCH + since)
        };
        // Where nothing was ever dropped, no register can be turned back.
        if self.dir.join("taken").is_dir() {
            mark().map_err(|error| DropError::at(&path, error))
        } else {
            Ok(())
        }
    }
}

/// When the last single change came, in milliseconds since 1970; 0 where none did.
pub(super) fn last_at(dir: &Path) -> i64 {
    let metadata = std::fs::metadata(dir.join("taken").join(SINGLE));
    let modified = metadata.and_then(|metadata| metadata.modified()).ok();
    let since = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or_default()
}

//! A person's acceptance of a file that is held.
//!
//! Owns what an acceptance may do: it never undoes what was taken since the file was held.

use std::path::{Path, PathBuf};

use platform::shown;
use serde::Deserialize;

use super::names::{REPORT, is_beside};
use super::{DropError, DropFolder, beside, entries, last, marks, name_of, singles};

/// Why a file cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no such file.
    #[error("{file} is not held; held are: {held}")]
    Unknown {
        /// The name that was given.
        file: String,
        /// The names of the held files.
        held: String,
    },
    /// Something was taken since it was held.
    #[error(
        "{file} is a whole register, and {since} was taken after it was held: taking it now would undo newer changes. Drop it again if you want that"
    )]
    Older {
        file: String,
        /// What was taken since.
        since: String,
    },
    #[error(transparent)]
    Drop(#[from] DropError),
}

impl DropFolder {
    /// The names of the held files, in no order; without reports and parked rows.
    pub fn held(dir: &Path) -> Result<Vec<String>, DropError> {
        let found = entries(&dir.join("held"))?;
        Ok(found.iter().map(|(path, _)| name_of(path)).filter(|name| !is_beside(name)).collect())
    }

    /// Accepts a file that the guard holds, or that waits for a file before it; gives its new path.
    pub fn accept(dir: &Path, name: &str) -> Result<PathBuf, AcceptError> {
        let held = dir.join("held").join(name);
        let is_plain = !is_beside(name) && Path::new(name).file_name().is_some_and(|file| file == name);
        let from = [held.clone(), dir.join(name)].into_iter().find(|path| is_plain && path.is_file());
        let Some(from) = from else {
            let held = Self::held(dir)?;
            let mut held: Vec<String> = held.iter().map(|name| shown::value(name)).collect();
            held.sort();
            let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
            return Err(AcceptError::Unknown { file: shown::value(name), held });
        };
        if let Some(since) = taken_since(dir, name).filter(|_| from == held) {
            return Err(AcceptError::Older { file: shown::value(name), since });
        }
        let to = dir.join("accepted").join(name);
        std::fs::rename(&from, &to).map_err(|error| DropError::at(&from, error))?;
        // A mark that stayed behind would declare the next file of this name whole.
        for ending in marks::endings() {
            let mark = beside(&from, ending);
            if mark.is_file() {
                std::fs::rename(&mark, beside(&to, ending)).map_err(|error| DropError::at(&mark, error))?;
            }
        }
        Ok(to)
    }
}

/// What was taken after this whole register came to `held/`: it would turn that back. `None` if nothing was.
pub(super) fn taken_since(dir: &Path, name: &str) -> Option<String> {
    let held_at = held_register(dir, name)?;
    let last = last::read(dir);
    let single = singles::last_at(dir);
    let since = match (single > last.at, last.file.is_empty()) {
        (true, _) => "a single change".to_owned(),
        (false, true) => "another file".to_owned(),
        (false, false) => last.file,
    };
    (last.at.max(single) > held_at).then_some(since)
}

/// When this file came to `held/`; `None` if it is no whole register there.
fn held_register(dir: &Path, name: &str) -> Option<i64> {
    let report = std::fs::read(beside(&dir.join("held").join(name), REPORT)).ok()?;
    let report: HeldReport = serde_json::from_slice(&report).ok()?;
    report.is_full.then_some(report.at)
}

#[derive(Deserialize)]
struct HeldReport {
    #[serde(default)]
    is_full: bool,
    #[serde(default)]
    at: i64,
}

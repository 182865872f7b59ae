//! The drop folder: files that a registry leaves for the agent, taken in the order of their names.
//!
//! Owns which file is ready (its size and time stand still between two looks) and where a taken one goes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use platform::segments::checked_file;
use platform::segments::disk::RealDisk;

use super::compare::Parked;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct DropError {
    path: PathBuf,
    error: std::io::Error,
}

/// In `taken/`: the name of the whole register that was taken last; empty when changes were taken after it.
const LAST_FULL: &str = ".last-full";
const LAST_FULL_KIND: &[u8; 4] = b"last";

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its changes are in the outbox.
    Taken,
    /// The guard holds it until a person accepts it.
    Held,
    /// It cannot be read at all.
    Refused,
}

impl Fate {
    /// The folder it goes to, below the drop folder.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Held => "held",
            Self::Refused => "refused",
        }
    }
}

/// A folder that is looked at again and again.
#[derive(Debug)]
pub struct DropFolder {
    dir: PathBuf,
    last_look: HashMap<PathBuf, (u64, Option<SystemTime>)>,
}

impl DropFolder {
    /// Over a folder; makes it and its subfolders.
    pub fn open(dir: &Path) -> Result<Self, DropError> {
        for sub in ["", "taken", "held", "refused", "accepted"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(|error| DropError { path, error })?;
        }
        Ok(Self { dir: dir.to_owned(), last_look: HashMap::new() })
    }

    /// Files whose size and time stood still since the last look, in order. Files that a person accepted come
    /// first.
    pub fn ready(&mut self) -> Result<Vec<(PathBuf, bool)>, DropError> {
        let mut found: Vec<(PathBuf, bool)> =
            files(&self.dir.join("accepted"))?.into_iter().map(|(path, _)| (path, true)).collect();
        let present = files(&self.dir)?;
        for (path, look) in &present {
            if self.last_look.get(path) == Some(look) {
                found.push((path.clone(), false));
            }
        }
        self.last_look = present.into_iter().collect();
        Ok(found)
    }

    /// Moves a file to where its fate belongs, with a report beside it.
    pub fn settle(&mut self, file: &Path, fate: Fate, report: &str) -> Result<(), DropError> {
        self.last_look.remove(file);
        let name = file.file_name().unwrap_or_default();
        let target = self.dir.join(fate.folder()).join(name);
        let mut report_name = name.to_owned();
        report_name.push(".report.json");
        let report_path = target.with_file_name(report_name);
        std::fs::write(&report_path, report).map_err(|error| DropError { path: report_path, error })?;
        std::fs::rename(file, &target).map_err(|error| DropError { path: target, error })
    }

    /// Names every parked row in a file beside the report: one JSON object a line.
    pub fn name_parked(&self, file: &Path, fate: Fate, parked: &[Parked]) -> Result<(), DropError> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".parked.ndjson");
        let path = self.dir.join(fate.folder()).join(name);
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(File::create(&path)?);
            for row in parked {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
            out.flush()
        };
        write().map_err(|error| DropError { path: path.clone(), error })
    }

    /// A file is about to be taken: what was taken before it is not to be compared with any more.
    pub fn forget_last(&self) -> Result<(), DropError> {
        self.remember(Path::new(""), false)
    }

    /// Puts a copy of a taken file where the guard's files are held, so that a person can accept it.
    pub fn hold_copy(&self, file: &Path) -> Result<(), DropError> {
        let target = self.dir.join("held").join(file.file_name().unwrap_or_default());
        std::fs::copy(file, &target).map(drop).map_err(|error| DropError { path: target, error })
    }

    /// Remembers what was taken last, before it goes to `taken/`: a file that stands there is never unknown. Only a
    /// whole register can be compared with again.
    pub fn remember(&self, file: &Path, is_full: bool) -> Result<(), DropError> {
        let path = self.dir.join("taken").join(LAST_FULL);
        let name = file.file_name().filter(|_| is_full).unwrap_or_default();
        checked_file::write(&RealDisk, &path, LAST_FULL_KIND, name.as_encoded_bytes())
            .map_err(|error| DropError { path, error: std::io::Error::other(error) })
    }

    /// The whole register that was taken last, if nothing was taken after it and it is still there. While a file of
    /// its name waits to be taken, that one says more: what stands in `taken/` may be an older one.
    pub fn last_full(&self) -> Option<PathBuf> {
        let taken = self.dir.join("taken");
        let name = checked_file::read(&RealDisk, &taken.join(LAST_FULL), LAST_FULL_KIND).ok()??;
        let name = String::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        let waits = ["", "accepted"].iter().any(|sub| self.dir.join(sub).join(&name).exists());
        Some(taken.join(name)).filter(|path| path.is_file() && !waits)
    }

    /// A person's word on a file that the guard holds.
    pub fn accept(dir: &Path, name: &str) -> Result<PathBuf, DropError> {
        let (from, to) = (dir.join("held").join(name), dir.join("accepted").join(name));
        std::fs::rename(&from, &to).map_err(|error| DropError { path: from, error })?;
        Ok(to)
    }
}

type Look = (u64, Option<SystemTime>);

fn files(dir: &Path) -> Result<Vec<(PathBuf, Look)>, DropError> {
    let wrong = |error| DropError { path: dir.to_owned(), error };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let metadata = entry.metadata().map_err(wrong)?;
        if metadata.is_file() && !name.starts_with('.') && !name.ends_with(".part") {
            found.push((entry.path(), (metadata.len(), metadata.modified().ok())));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_ready_when_it_stands_still_and_goes_where_its_fate_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DropFolder::open(dir.path()).unwrap();
        let file = dir.path().join("b.csv");
        std::fs::write(&file, "a").unwrap();
        std::fs::write(dir.path().join("a.csv.part"), "a").unwrap();
        assert!(folder.ready().unwrap().is_empty(), "seen for the first time");
        std::fs::write(&file, "ab").unwrap();
        assert!(folder.ready().unwrap().is_empty(), "it grew");
        assert_eq!(folder.ready().unwrap(), [(file.clone(), false)]);
        folder.settle(&file, Fate::Held, "{}").unwrap();
        assert!(folder.ready().unwrap().is_empty());
        assert_eq!(folder.last_full(), None);
        let row = |line| Parked { line, column: None, reason: "its key stands there twice".to_owned() };
        folder.name_parked(&file, Fate::Taken, &[row(3), row(9)]).unwrap();
        let named = std::fs::read_to_string(dir.path().join("taken/b.csv.parked.ndjson")).unwrap();
        assert!(named.lines().count() == 2 && named.contains("\"line\":9"), "{named}");
        std::fs::write(dir.path().join("taken/c.csv"), "a").unwrap();
        folder.remember(&dir.path().join("c.csv"), true).unwrap();
        assert_eq!(folder.last_full(), Some(dir.path().join("taken/c.csv")));
        std::fs::write(dir.path().join("c.csv"), "b").unwrap();
        assert_eq!(folder.last_full(), None, "a newer one of its name waits");
        std::fs::remove_file(dir.path().join("c.csv")).unwrap();
        folder.remember(&dir.path().join("changes.csv"), false).unwrap();
        assert_eq!(folder.last_full(), None, "older than what is there");
        let accepted = DropFolder::accept(dir.path(), "b.csv").unwrap();
        assert_eq!(folder.ready().unwrap(), [(accepted, true)]);
        assert!(DropFolder::accept(dir.path(), "b.csv").is_err());
    }
}

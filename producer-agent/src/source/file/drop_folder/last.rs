//! What was taken last: the only thing that the drop folder remembers.
//!
//! Owns its file in `taken/`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use platform::segments::checked_file;
use platform::segments::disk::RealDisk;
use serde::{Deserialize, Serialize};

use super::DropError;
use super::names::{Order, is_one_series, order};

/// In `taken/`: what was taken last.
const LAST: &str = ".last";
const LAST_KIND: &[u8; 4] = b"last";

/// What was taken last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Last {
    /// The file, empty while another is being taken.
    pub(super) file: String,
    /// Whether it is the whole register: only that can be compared with again.
    pub(super) is_full: bool,
    /// When, in milliseconds since 1970.
    pub(super) at: i64,
    /// The whole register that was taken last.
    #[serde(default)]
    pub(super) full: String,
    /// The change file of each series that was taken last.
    #[serde(default)]
    pub(super) changes: Vec<String>,
}

/// Series that are remembered; beyond this number, the oldest is forgotten.
const MOST_SERIES: usize = 1_000;

impl Last {
    /// The last file of a change file's series; empty where there is none.
    pub(super) fn of_series(&self, name: &str) -> &str {
        self.changes.iter().find(|known| is_one_series(known, name)).map_or("", String::as_str)
    }

    /// Records a taken change file. A person may have accepted an older one: then the series does not go back.
    pub(super) fn took_changes(&mut self, name: &str) {
        let known = self.of_series(name).to_owned();
        if order(name, &known) == Order::Older {
            return;
        }
        self.changes.retain(|other| *other != known);
        if self.changes.len() >= MOST_SERIES {
            self.changes.remove(0);
        }
        self.changes.push(name.to_owned());
    }
}

pub(super) fn read(dir: &Path) -> Last {
    let found = checked_file::read(&RealDisk, &dir.join("taken").join(LAST), LAST_KIND);
    let bytes = found.ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Several threads take files and single changes, and each changes what another has written.
static CHANGING: Mutex<()> = Mutex::new(());

/// Changes what is remembered; one caller at a time.
pub(super) fn change(
    dir: &Path,
    change: impl FnOnce(Last) -> Result<Option<Last>, DropError>,
) -> Result<(), DropError> {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    match change(read(dir))? {
        Some(last) => write(dir, &last),
        None => Ok(()),
    }
}

fn write(dir: &Path, last: &Last) -> Result<(), DropError> {
    let path = dir.join("taken").join(LAST);
    let bytes = serde_json::to_vec(last).unwrap_or_default();
    checked_file::write(&RealDisk, &path, LAST_KIND, &bytes)
        .map_err(|error| DropError::at(&path, std::io::Error::other(error)))
}

//! What was taken last: the one thing that the drop folder remembers.
//!
//! Owns its file in `taken/`.

use std::path::Path;

use platform::segments::checked_file;
use platform::segments::disk::RealDisk;
use serde::{Deserialize, Serialize};

use super::DropError;

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
    /// The change file that was taken last.
    pub(super) changes: String,
}

pub(super) fn read(dir: &Path) -> Last {
    let found = checked_file::read(&RealDisk, &dir.join("taken").join(LAST), LAST_KIND);
    let bytes = found.ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

pub(super) fn write(dir: &Path, last: &Last) -> Result<(), DropError> {
    let path = dir.join("taken").join(LAST);
    let bytes = serde_json::to_vec(last).unwrap_or_default();
    checked_file::write(&RealDisk, &path, LAST_KIND, &bytes)
        .map_err(|error| DropError::at(&path, std::io::Error::other(error)))
}

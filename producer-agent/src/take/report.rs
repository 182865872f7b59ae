//! What became of a file, for the person who dropped it.

use serde::Serialize;

use super::counts::Counts;
use crate::source::row::Parked;

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FileReport {
    pub file: String,
    /// Whether it is the whole register, or changes only.
    pub is_full: bool,
    pub counts: Counts,
    /// Why the guard held it, or would have.
    pub guard: Option<String>,
    /// Whether its changes are in the outbox.
    pub taken: bool,
    /// Why its deletes were held.
    pub deletes_held: Option<String>,
    /// Rows that were read, good or not.
    pub rows: u64,
    /// What a person should know of the file, though it was taken.
    pub remarks: Vec<String>,
    /// Columns without a field.
    pub ignored_columns: Vec<String>,
    pub parked: Vec<Parked>,
}

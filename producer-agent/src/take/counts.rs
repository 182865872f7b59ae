//! How many rows of a file did what.

use serde::Serialize;

use crate::source::row::Parked;

/// The most parked rows that are named; more are only counted. A file of such rows must not fill the memory.
const MOST_NAMED: usize = 100_000;

/// How many rows did what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// New keys.
    pub create: u64,
    /// Keys whose image changed.
    pub update: u64,
    /// Keys that are gone.
    pub delete: u64,
    /// Keys whose image is the same.
    pub same: u64,
    /// Rows set aside.
    pub parked: u64,
}

impl Counts {
    /// Counts a parked row; only the first rows are named.
    pub(super) fn park(&mut self, parked: Parked, named: &mut Vec<Parked>) {
        self.parked += 1;
        if named.len() < MOST_NAMED {
            named.push(parked);
        }
    }
}

//! A change file: rows with an operation column, each one change, in order.
//!
//! Owns the reading of operations and what they are on top of the images. A row that makes no sense is parked; its
//! key keeps its image.

use std::collections::HashMap;

use super::compare::{Counts, Parked, Read, RowReader};
use super::table::Row;
use crate::image::{ImageError, ImageStore};

/// What a change file says.
#[derive(Debug, Default)]
pub struct Changes {
    /// Line, key, and the image after; `None` for a delete.
    pub rows: Vec<(u64, String, Option<Vec<u8>>)>,
    /// How many rows do what.
    pub counts: Counts,
    /// The rows set aside.
    pub parked: Vec<Parked>,
}

impl Changes {
    /// Reads all rows; `column` is where the operation stands.
    pub fn read(
        rows: impl Iterator<Item = Row>,
        reader: &RowReader,
        column: usize,
        images: &dyn ImageStore,
    ) -> Result<Self, ImageError> {
        let mut changes = Self::default();
        // What the rows before this one made of a key.
        let mut present: HashMap<String, bool> = HashMap::new();
        for row in rows {
            let operation = row.cells.as_ref().ok().and_then(|cells| cells.get(column)).cloned();
            let (key, datum) = match reader.read(&row) {
                Read::Good { key, datum } => (key.as_str().to_owned(), datum),
                Read::Bad { parked, .. } => {
                    changes.parked.push(parked);
                    continue;
                }
            };
            let known = match present.get(&key) {
                Some(known) => *known,
                None => images.get(&key)?.is_some(),
            };
            let after = match (operation.as_deref(), known) {
                (Some("c" | "u"), _) => Some(datum),
                (Some("d"), true) => None,
                (Some("d"), false) => {
                    changes.park(row.line, "it deletes a key that is not there");
                    continue;
                }
                _ => {
                    changes.park(row.line, "its operation is none of c, u, d");
                    continue;
                }
            };
            let counter = match (&after, known) {
                (None, _) => &mut changes.counts.delete,
                (Some(_), true) => &mut changes.counts.update,
                (Some(_), false) => &mut changes.counts.create,
            };
            *counter += 1;
            present.insert(key.clone(), after.is_some());
            changes.rows.push((row.line, key, after));
        }
        changes.counts.parked = u64::try_from(changes.parked.len()).unwrap_or(u64::MAX);
        Ok(changes)
    }

    fn park(&mut self, line: u64, reason: &str) {
        self.parked.push(Parked { line, column: None, reason: reason.to_owned() });
    }
}

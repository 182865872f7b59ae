//! A change file: rows with an operation column, each one change, in order.
//!
//! Owns the reading of operations and what they are on top of the images. A row that makes no sense is parked; its
//! key keeps its image.

use std::collections::HashMap;

use super::counts::Counts;
use crate::image::{ImageError, ImageStore};
use crate::source::cells::{Cell, Cells};
use crate::source::reader::{Parked, Read, RowReader};
use crate::source::row::{Extent, Row};

/// Where a row's operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationAt {
    /// In a column.
    Column(usize),
    /// In the member of this name.
    Member(String),
}

impl OperationAt {
    fn read<'c>(&self, cells: &'c Cells) -> Option<&'c str> {
        let cell = match self {
            Self::Column(index) => cells.get(*index),
            Self::Member(name) => cells.member(name),
        };
        match cell? {
            Cell::Plain(text) | Cell::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }
}

/// What a change file says.
#[derive(Debug, Default)]
pub struct Changes {
    /// Line, key, and the image after; `None` for a delete.
    pub rows: Vec<(u64, String, Option<Vec<u8>>)>,
    /// How many rows do what.
    pub counts: Counts,
    /// The rows set aside.
    pub parked: Vec<Parked>,
    /// Why nothing of the file can be taken: which changes it has, and in which order, is not sure.
    pub refused: Option<String>,
}

impl Changes {
    /// Reads all rows.
    pub fn read(
        rows: impl Iterator<Item = Row>,
        reader: &RowReader,
        operation: &OperationAt,
        images: &dyn ImageStore,
    ) -> Result<Self, ImageError> {
        let mut changes = Self::default();
        // What the rows before this one made of a key.
        let mut present: HashMap<String, bool> = HashMap::new();
        for row in rows {
            let Some((key, after)) = changes.row(&row, reader, operation) else { continue };
            let known = match present.get(&key) {
                Some(known) => *known,
                None => images.get(&key)?.is_some(),
            };
            let counter = match (&after, known) {
                (None, false) => {
                    changes.park(&row, "it deletes a key that is not there");
                    continue;
                }
                (None, true) => &mut changes.counts.delete,
                (Some(_), true) => &mut changes.counts.update,
                (Some(_), false) => &mut changes.counts.create,
            };
            *counter += 1;
            present.insert(key.clone(), after.is_some());
            changes.rows.push((row.place.line, key, after));
        }
        Ok(changes)
    }

    /// A row's key and its image afterwards; `None` where it is set aside.
    fn row(&mut self, row: &Row, reader: &RowReader, at: &OperationAt) -> Option<(String, Option<Vec<u8>>)> {
        if let Ok(cells) = &row.content {
            match at.read(cells) {
                Some("c" | "u") => {}
                // Nothing but the key is looked at: the other cells may be empty, or not there.
                Some("d") => {
                    let key = reader.key(cells);
                    if key.is_none() {
                        self.park(row, "the key of what it deletes cannot be read");
                    }
                    return key.map(|key| (key.as_str().to_owned(), None));
                }
                _ => {
                    self.park(row, "its operation is none of c, u, d");
                    return None;
                }
            }
        }
        match reader.read(row) {
            Read::Good { key, datum } => Some((key.as_str().to_owned(), Some(datum))),
            Read::Bad { parked, extent, .. } => {
                if extent != Extent::Row {
                    self.refused
                        .get_or_insert_with(|| format!("line {}: {}", parked.place.line, parked.reason));
                }
                self.counts.park(parked, &mut self.parked);
                None
            }
        }
    }

    fn park(&mut self, row: &Row, reason: &str) {
        let parked = Parked { place: row.place, column: None, reason: reason.to_owned() };
        self.counts.park(parked, &mut self.parked);
    }
}

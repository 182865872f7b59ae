//! The changes of a source: each row is one change, in order.
//!
//! Owns each change's operation, given the images. A row that makes no sense is parked; its key keeps its image.

use std::collections::HashMap;

use super::counts::Counts;
use super::part::{Part, Present, Read};
use crate::image::{ImageError, ImageStore};
use crate::source::port::Rows;
use crate::source::row::{Extent, Parked};

/// Rows whose images are looked up together: they may be large.
const GROUP: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub line: u64,
    pub key: String,
    /// The image after; `None` for a delete.
    pub after: Option<Vec<u8>>,
}

/// The changes of a source, and its parked rows.
#[derive(Debug, Default)]
pub struct Changes {
    /// In order.
    pub rows: Vec<Change>,
    pub counts: Counts,
    pub parked: Vec<Parked>,
    /// Why nothing of the source can be taken: its changes, or their order, are not certain.
    pub refused: Option<String>,
}

impl Changes {
    pub fn read(rows: &mut dyn Rows, images: &dyn ImageStore) -> Result<Self, ImageError> {
        let mut changes = Self::default();
        // Whether a key exists after the rows so far.
        let mut present: HashMap<String, bool> = HashMap::new();
        let mut part = Part::default();
        loop {
            part.fill(rows, GROUP);
            if part.is_empty() {
                return Ok(changes);
            }
            let keys = part.keys();
            let known = images.get(&keys)?;
            for (key, image) in keys.into_iter().zip(known) {
                if !present.contains_key(key) {
                    present.insert(key.to_owned(), image.is_some());
                }
            }
            part.drain().for_each(|row| changes.row(row, &mut present));
        }
    }

    fn row(&mut self, row: Read<Present<'_>>, present: &mut HashMap<String, bool>) {
        let (location, key, after) = match row {
            Read::Present { location, row } => (location, row.key.to_owned(), Some(row.datum.to_vec())),
            Read::Deleted { location, key } => (location, key.into_string(), None),
            Read::Parked { parked, extent, .. } => return self.set_aside(parked, extent),
        };
        let is_known = present.get(&key).copied().unwrap_or(false);
        let counter = match (&after, is_known) {
            (None, false) => {
                let reason = "it deletes a key that is not there".to_owned();
                return self.set_aside(Parked { location, column: None, reason }, Extent::Row);
            }
            (None, true) => &mut self.counts.delete,
            (Some(_), true) => &mut self.counts.update,
            (Some(_), false) => &mut self.counts.create,
        };
        *counter += 1;
        present.insert(key.clone(), after.is_some());
        self.rows.push(Change { line: location.line, key, after });
    }

    fn set_aside(&mut self, parked: Parked, extent: Extent) {
        if extent != Extent::Row {
            self.refused.get_or_insert_with(|| format!("line {}: {}", parked.location.line, parked.reason));
        }
        self.counts.park(parked, &mut self.parked);
    }
}

//! The changes of a source: each row is one change, in order.
//!
//! Owns each change's operation, given the images. A row that makes no sense is parked; its key keeps its image.

use std::collections::HashMap;

use super::counts::Counts;
use crate::image::{ImageError, ImageStore};
use crate::source::port::{Rows, SourceRow};
use crate::source::row::{Extent, Parked};

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
        for row in rows {
            let (location, key, after) = match row {
                SourceRow::Present { location, key, datum } => (location, key, Some(datum)),
                SourceRow::Deleted { location, key } => (location, key, None),
                SourceRow::Parked { parked, extent, .. } => {
                    changes.set_aside(parked, extent);
                    continue;
                }
            };
            let key = key.as_str().to_owned();
            let known = match present.get(&key) {
                Some(known) => *known,
                None => images.get(&key)?.is_some(),
            };
            let counter = match (&after, known) {
                (None, false) => {
                    let reason = "it deletes a key that is not there".to_owned();
                    changes.set_aside(Parked { location, column: None, reason }, Extent::Row);
                    continue;
                }
                (None, true) => &mut changes.counts.delete,
                (Some(_), true) => &mut changes.counts.update,
                (Some(_), false) => &mut changes.counts.create,
            };
            *counter += 1;
            present.insert(key.clone(), after.is_some());
            changes.rows.push(Change { line: location.line, key, after });
        }
        Ok(changes)
    }

    fn set_aside(&mut self, parked: Parked, extent: Extent) {
        if extent != Extent::Row {
            self.refused.get_or_insert_with(|| format!("line {}: {}", parked.location.line, parked.reason));
        }
        self.counts.park(parked, &mut self.parked);
    }
}

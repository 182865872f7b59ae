//! Changes as a source gives them: each row one change, in order.
//!
//! Owns what they are on top of the images. A row that makes no sense is parked; its key keeps its image.

use std::collections::HashMap;

use super::counts::Counts;
use crate::image::{ImageError, ImageStore};
use crate::source::port::{Rows, SourceRow};
use crate::source::row::{Extent, Parked};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it stands in its source.
    pub line: u64,
    pub key: String,
    /// The image after; `None` for a delete.
    pub after: Option<Vec<u8>>,
}

/// What a source of changes says.
#[derive(Debug, Default)]
pub struct Changes {
    /// In order.
    pub rows: Vec<Change>,
    /// How many rows do what.
    pub counts: Counts,
    /// The rows set aside.
    pub parked: Vec<Parked>,
    /// Why nothing of the source can be taken: which changes it has, and in which order, is not sure.
    pub refused: Option<String>,
}

impl Changes {
    pub fn read(rows: &mut dyn Rows, images: &dyn ImageStore) -> Result<Self, ImageError> {
        let mut changes = Self::default();
        // What the rows before this one made of a key.
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

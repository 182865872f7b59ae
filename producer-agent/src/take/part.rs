//! Rows that are read together.
//!
//! Owns their memory, which is one piece: what one thread allocates, another one frees only by waiting for it. It knows no
//! thread.

use schemas::key::Key;

use crate::image::ImageChange;
use crate::image::packed::{Packed, PackedImages};
use crate::source::location::Location;
use crate::source::port::{Rows, SourceRow};
use crate::source::row::{Extent, Parked};

/// Bytes after which a part takes no more rows.
const PART_BYTES: usize = 256 * 1024;

/// A row as it was read, with what it has where it is present.
#[derive(Debug)]
pub(super) enum Read<P> {
    Present { location: Location, row: P },
    Deleted { location: Location, key: Key<'static> },
    Parked { key: Option<Key<'static>>, parked: Parked, extent: Extent },
}

/// What a present row has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'p> {
    pub(super) key: &'p str,
    pub(super) datum: &'p [u8],
}

/// Rows that were read together.
#[derive(Default)]
pub(super) struct Part {
    /// The present rows.
    packed: PackedImages,
    rows: Vec<Read<Packed>>,
}

impl Part {
    /// Takes so many of the next rows; none at the end.
    pub(super) fn fill(&mut self, rows: &mut dyn Rows, most: usize) {
        self.packed.clear();
        self.rows.clear();
        while self.rows.len() < most
            && self.packed.bytes() < PART_BYTES
            && let Some(row) = rows.next_row()
        {
            self.rows.push(match row {
                SourceRow::Present { location, key, datum } => {
                    let change = ImageChange { key: key.as_str(), after: Some(datum) };
                    Read::Present { location, row: self.packed.pack(change) }
                }
                SourceRow::Deleted { location, key } => Read::Deleted { location, key: key.into_owned() },
                SourceRow::Parked { key, parked, extent } => {
                    Read::Parked { key: key.map(Key::into_owned), parked, extent }
                }
            });
        }
    }

    /// Whether nothing was read.
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The keys that could be read.
    pub(super) fn keys(&self) -> Vec<&str> {
        self.rows.iter().filter_map(|row| self.key(row)).collect()
    }

    fn key<'p>(&'p self, row: &'p Read<Packed>) -> Option<&'p str> {
        match row {
            Read::Present { row, .. } => Some(self.packed.get(row).key),
            Read::Deleted { key, .. } => Some(key.as_str()),
            Read::Parked { key, .. } => key.as_ref().map(Key::as_str),
        }
    }

    /// The rows, in order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Read<Present<'_>>> {
        let packed = &self.packed;
        self.rows.drain(..).map(|row| match row {
            Read::Present { location, row } => {
                let ImageChange { key, after } = packed.get(&row);
                Read::Present { location, row: Present { key, datum: after.unwrap_or_default() } }
            }
            Read::Deleted { location, key } => Read::Deleted { location, key },
            Read::Parked { key, parked, extent } => Read::Parked { key, parked, extent },
        })
    }
}

//! Where the changes of a block lie: one table for the block, and nothing for each change.
//!
//! Owns the places within the block's datum. A change is a view of table and datum; whoever keeps the table keeps the
//! datum that it was made from.

use super::{Images, Op};
use crate::avro::binary::{self, Cursor, DatumError};
use crate::avro::layout::Layout;
use crate::avro::located::{self, Located};
use crate::time::Millis;

/// A part of the datum. A block has at most some MiB.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

/// An image, and its fields' ends in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedImage {
    span: Span,
    ends: Span,
}

/// A change in the datum.
#[derive(Debug, Clone, Copy)]
struct Row {
    op: Op,
    key: Span,
    before: Option<PlacedImage>,
    after: Option<PlacedImage>,
    /// Its source and times.
    rest: Span,
    event_at: Millis,
}

/// The places of a block's changes.
#[derive(Debug, Clone, Default)]
pub struct BlockTable {
    rows: Vec<Row>,
    /// The ends of all images' fields, each image's from its own beginning.
    ends: Vec<u32>,
}

/// A change of a block, in the block's datum.
#[derive(Debug, Clone, Copy)]
pub struct PlacedChange<'b> {
    pub op: Op,
    pub key: &'b str,
    pub images: Images<'b>,
    pub event_at: Millis,
    /// Its source and times.
    rest: &'b [u8],
}

fn place(at: usize) -> Result<u32, DatumError> {
    u32::try_from(at).map_err(|_| DatumError::Invalid { at, what: "a block is longer than 4 GiB" })
}

impl Span {
    fn of(start: usize, end: usize) -> Result<Self, DatumError> {
        Ok(Self { start: place(start)?, end: place(end)? })
    }

    fn range(self) -> Option<std::ops::Range<usize>> {
        Some(usize::try_from(self.start).ok()?..usize::try_from(self.end).ok()?)
    }

    fn bytes(self, datum: &[u8]) -> Option<&[u8]> {
        datum.get(self.range()?)
    }
}

impl BlockTable {
    /// How many changes the block has.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory.
    pub const fn size(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.ends.capacity() * size_of::<u32>()
    }

    /// Gives back the memory that it does not use: a table of a chunk is kept for a while.
    pub(super) fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Whether no block was placed in it.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Forgets the block, and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.ends.clear();
    }

    /// A change by its index, in the datum that the table was made from.
    pub fn get<'b>(&'b self, index: usize, datum: &'b [u8]) -> Option<PlacedChange<'b>> {
        let row = self.rows.get(index)?;
        let key = std::str::from_utf8(row.key.bytes(datum)?).ok()?;
        let images = self.images(row, datum);
        Some(PlacedChange { op: row.op, key, images, event_at: row.event_at, rest: row.rest.bytes(datum)? })
    }

    fn images<'b>(&'b self, row: &Row, datum: &'b [u8]) -> Images<'b> {
        let image = |placed: Option<PlacedImage>| {
            let PlacedImage { span, ends } = placed?;
            Some(Located::of(span.bytes(datum)?, self.ends.get(ends.range()?)?))
        };
        Images { before: image(row.before), after: image(row.after) }
    }

    /// The images of the change that was added last.
    pub(super) fn last_images<'b>(&'b self, datum: &'b [u8]) -> Images<'b> {
        self.rows.last().map(|row| self.images(row, datum)).unwrap_or_default()
    }

    /// Moves past an image and keeps where it lies.
    pub(super) fn image(
        &mut self,
        layout: &Layout,
        cursor: &mut Cursor<'_>,
    ) -> Result<PlacedImage, DatumError> {
        let start = cursor.at();
        let first = self.ends.len();
        located::pass(layout, cursor, &mut self.ends)?;
        Ok(PlacedImage { span: Span::of(start, cursor.at())?, ends: Span::of(first, self.ends.len())? })
    }

    /// Adds a change whose key, and whose source and times (`rest`), lie there.
    pub(super) fn add(
        &mut self,
        op: Op,
        key: std::ops::Range<usize>,
        images: [Option<PlacedImage>; 2],
        rest: std::ops::Range<usize>,
        event_at: Millis,
    ) -> Result<(), DatumError> {
        let [before, after] = images;
        let key = Span::of(key.start, key.end)?;
        let rest = Span::of(rest.start, rest.end)?;
        self.rows.push(Row { op, key, before, after, rest, event_at });
        Ok(())
    }
}

impl PlacedChange<'_> {
    /// Appends what the state keeps of it: the change that reads the image after it, or one that deletes its key. Source
    /// and times are those of this change.
    pub fn put_present(&self, out: &mut Vec<u8>) {
        let after = self.images.after;
        let op = if after.is_some() { Op::Read } else { Op::Delete };
        binary::put_long(out, op.index());
        binary::put_string(out, self.key);
        out.push(0);
        match after {
            Some(after) => {
                binary::put_long(out, 1);
                out.extend_from_slice(after.bytes());
            }
            None => out.push(0),
        }
        out.extend_from_slice(self.rest);
    }
}

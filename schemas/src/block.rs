//! A block: the changes of one record of the log, as an Avro array of one run.
//!
//! Owns the bytes around the changes, and how many changes fit. The same array can be written in several runs, or with
//! their sizes; a block never is: a reader that takes one way only cannot be told two stories by two writers.

use crate::avro::binary::{Cursor, DatumError, put_long};
use crate::framing;
use crate::ids::SchemaId;
use crate::limits::{MAX_BLOCK_BYTES, MAX_BLOCK_CHANGES};

/// Bytes around the changes: a frame, a count, an end.
const AROUND_BYTES: usize = 16;

/// Collects the datums of changes until the block is full.
#[derive(Debug, Clone, Default)]
pub struct OpenBlock {
    datums: Vec<u8>,
    count: u32,
}

impl OpenBlock {
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Changes so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether a change of so many bytes still fits. The first always does: a large change is a block of its own.
    pub const fn has_room_for(&self, bytes: usize) -> bool {
        self.is_empty() || (self.count < MAX_BLOCK_CHANGES && self.datums.len() + bytes <= MAX_BLOCK_BYTES)
    }

    /// Adds a change's bare datum.
    pub fn push(&mut self, datum: &[u8]) {
        self.datums.extend_from_slice(datum);
        self.count += 1;
    }

    /// The block's bare datum.
    pub fn finish(self) -> Vec<u8> {
        of_datums(self.count, &self.datums)
    }

    /// The block's datum with a schema's frame in front.
    pub fn finish_framed(self, schema: SchemaId) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.datums.len() + AROUND_BYTES);
        framing::put(schema, &mut out);
        put_datums(self.count, &self.datums, &mut out);
        out
    }
}

/// The block of one change.
pub fn of_one(datum: &[u8]) -> Vec<u8> {
    of_datums(1, datum)
}

fn of_datums(count: u32, datums: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(datums.len() + AROUND_BYTES);
    put_datums(count, datums, &mut out);
    out
}

fn put_datums(count: u32, datums: &[u8], out: &mut Vec<u8>) {
    if count > 0 {
        put_long(out, i64::from(count));
        out.extend_from_slice(datums);
    }
    out.push(0);
}

/// How many changes a block has, by the number in front of it.
pub fn count(datum: &[u8]) -> Result<u32, DatumError> {
    begin(&mut Cursor::new(datum))
}

/// Moves past the number in front of a block's changes.
pub fn begin(cursor: &mut Cursor<'_>) -> Result<u32, DatumError> {
    let at = cursor.at();
    let count = u32::try_from(cursor.long()?).unwrap_or(0);
    let mut shortest = Vec::new();
    put_long(&mut shortest, i64::from(count));
    match count {
        1..=MAX_BLOCK_CHANGES if cursor.since(at) == shortest => Ok(count),
        _ => Err(DatumError::Invalid { at, what: "a block has between 1 and 2,000 changes, in one run" }),
    }
}

/// Moves past the mark behind a block's changes.
pub fn end(cursor: &mut Cursor<'_>) -> Result<(), DatumError> {
    let at = cursor.at();
    match cursor.byte("the end of a block")? {
        0 => Ok(()),
        _ => Err(DatumError::Invalid { at, what: "a block's changes are one run" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_full_by_its_bytes_or_its_changes() {
        let mut block = OpenBlock::default();
        assert!(block.has_room_for(usize::MAX), "a large change is a block of its own");
        block.push(&[0; 100]);
        assert!(block.has_room_for(MAX_BLOCK_BYTES - 100) && !block.has_room_for(MAX_BLOCK_BYTES - 99));
        while block.count() < MAX_BLOCK_CHANGES {
            block.push(&[]);
        }
        assert!(!block.has_room_for(0));
        assert_eq!(count(&block.finish()), Ok(MAX_BLOCK_CHANGES));
    }

    #[test]
    fn another_way_to_write_the_array_is_no_block() {
        assert_eq!(of_one(&[7]), [2, 7, 0]);
        let mut open = OpenBlock::default();
        open.push(&[7]);
        assert_eq!(open.finish_framed(SchemaId::new(258)), [0, 0, 0, 1, 2, 2, 7, 0]);
        assert_eq!(count(&of_one(&[7])), Ok(1));
        let mut sized = Cursor::new(&[1, 2, 7, 0]);
        assert!(begin(&mut sized).is_err(), "a run with its size in bytes");
        assert!(count(&[0x82, 0, 7, 0]).is_err(), "a count that is longer than it must be");
        assert!(end(&mut Cursor::new(&[0x80, 0])).is_err(), "so is this end");
        assert!(count(&[0]).is_err(), "no change");
        assert!(count(&OpenBlock::default().finish()).is_err());
        let mut two_runs = Cursor::new(&[2, 7, 2, 7, 0]);
        assert_eq!(begin(&mut two_runs), Ok(1));
        two_runs.byte("the change").unwrap();
        assert!(end(&mut two_runs).is_err(), "a second run");
    }
}

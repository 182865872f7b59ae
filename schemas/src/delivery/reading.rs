//! The parts of deliveries, read from their bytes.
//!
//! Owns the bounds of what is read: longer lists and larger numbers are refused.

use super::CloseReason;
use crate::avro::binary::{Cursor, DatumError};
use crate::cursor::{Place, SnapshotPlace};
use crate::ids::{BootstrapId, Offset, Partition};
use crate::limits::{MAX_PARTITIONS, MAX_RANGE_DIGESTS};
use crate::marks::offset;
use crate::per_partition::PerPartition;
use crate::position::EventPosition;
use crate::reconcile::AnnouncedDigests;
use crate::trace::TraceContext;

/// The most places of one delivery: one for each partition.
const MAX_PLACES: usize = MAX_PARTITIONS as usize;

pub(super) fn place(cursor: &mut Cursor<'_>) -> Result<Place, DatumError> {
    Ok(Place { offset: Offset::new(offset(cursor)?), checkpoint: Offset::new(offset(cursor)?) })
}

pub(super) fn position(cursor: &mut Cursor<'_>) -> Result<EventPosition, DatumError> {
    let offset = Offset::new(offset(cursor)?);
    let at = cursor.at();
    match u32::try_from(cursor.long()?) {
        Ok(index) => Ok(EventPosition { offset, index }),
        Err(_) => Err(DatumError::Invalid { at, what: "no such index in a block" }),
    }
}

fn snapshot_place(cursor: &mut Cursor<'_>) -> Result<SnapshotPlace, DatumError> {
    Ok(SnapshotPlace { next: Offset::new(offset(cursor)?), end: Offset::new(offset(cursor)?) })
}

pub(super) fn places(cursor: &mut Cursor<'_>) -> Result<PerPartition<Place>, DatumError> {
    Ok(all(cursor, MAX_PLACES, place)?.into_iter().collect())
}

pub(super) fn snapshot_places(cursor: &mut Cursor<'_>) -> Result<PerPartition<SnapshotPlace>, DatumError> {
    Ok(all(cursor, MAX_PLACES, snapshot_place)?.into_iter().collect())
}

pub(super) fn announced(cursor: &mut Cursor<'_>) -> Result<AnnouncedDigests, DatumError> {
    let rows = offset(cursor)?;
    let total = cursor.take(16, "total")?.iter().fold(0, |total, byte| (total << 8) | u128::from(*byte));
    let digest = |cursor: &mut Cursor<'_>| {
        Ok(cursor.take(8, "digest")?.iter().fold(0, |digest, byte| (digest << 8) | u64::from(*byte)))
    };
    Ok(AnnouncedDigests { rows, total, digests: all(cursor, MAX_RANGE_DIGESTS, digest)? })
}

/// An array's items, at most `most`.
pub(super) fn all<'a, T>(
    cursor: &mut Cursor<'a>,
    most: usize,
    one: impl Fn(&mut Cursor<'a>) -> Result<T, DatumError>,
) -> Result<Vec<T>, DatumError> {
    let mut found = Vec::new();
    loop {
        let at = cursor.at();
        let count = cursor.long()?;
        if count == 0 {
            return Ok(found);
        }
        if count < 0 {
            cursor.length()?;
        }
        for _ in 0..count.unsigned_abs() {
            if found.len() >= most {
                return Err(DatumError::Invalid { at, what: "an array is longer than it may be" });
            }
            found.push(one(cursor)?);
        }
    }
}

pub(super) fn bootstrap(cursor: &mut Cursor<'_>) -> Result<BootstrapId, DatumError> {
    let mut id = [0; 16];
    id.copy_from_slice(cursor.take(16, "id")?);
    Ok(BootstrapId::new(id))
}

pub(super) fn partition(cursor: &mut Cursor<'_>) -> Result<Partition, DatumError> {
    let at = cursor.at();
    let number = u32::try_from(cursor.long()?);
    number.map(Partition::new).map_err(|_| DatumError::Invalid { at, what: "no such partition" })
}

pub(super) fn pick<T: Copy>(cursor: &mut Cursor<'_>, all: &[T]) -> Result<T, DatumError> {
    let at = cursor.at();
    let index = usize::try_from(cursor.long()?).ok();
    let found = index.and_then(|i| all.get(i)).copied();
    found.ok_or(DatumError::Invalid { at, what: "an enum has no such symbol" })
}

pub(super) fn trace(cursor: &mut Cursor<'_>) -> Result<Option<TraceContext>, DatumError> {
    let at = cursor.at();
    match cursor.long()? {
        0 => Ok(None),
        1 => Ok(TraceContext::parse(cursor.string()?)),
        _ => Err(DatumError::Invalid { at, what: "a union has no such branch" }),
    }
}

pub(super) fn close_reason(cursor: &mut Cursor<'_>) -> Result<CloseReason, DatumError> {
    let at = cursor.at();
    let text = cursor.string()?;
    let found = CloseReason::ALL.into_iter().find(|reason| reason.as_str() == text);
    found.ok_or(DatumError::Invalid { at, what: "an unknown reason for closing" })
}

//! The record types other than the change: opening, checkpoint, resync, freshness, as Avro records of their own.
//!
//! Owns their encoding by this crate's .avsc files; a test checks each against its file.

use std::collections::BTreeMap;

use crate::avro::binary::{self, Cursor, DatumError};
use crate::epoch_table::{Entry, EpochEnd, EpochTable, Opening, Writer};
use crate::framing;
use crate::ids::{AgentId, Digest, Epoch, LogId, Offset, SchemaId, Sequence};
use crate::limits;
use crate::record::{Kind, Record};
use crate::time::Millis;

/// The schema of [`Opening`].
pub const OPENING_SCHEMA: &str = include_str!("../avsc/opening.avsc");
/// The schema of [`Checkpoint`].
pub const CHECKPOINT_SCHEMA: &str = include_str!("../avsc/checkpoint.avsc");
/// The schema of [`Resync`].
pub const RESYNC_SCHEMA: &str = include_str!("../avsc/resync.avsc");
/// The schema of [`Freshness`].
pub const FRESHNESS_SCHEMA: &str = include_str!("../avsc/freshness.avsc");

/// The schema id in the frames of marks: their kind is in a header, and their schema is fixed here.
pub const MARK_SCHEMA: SchemaId = SchemaId::new(0);

/// A mark as a record of a topic.
pub fn record(kind: Kind, datum: &[u8]) -> Record {
    Record { key: None, value: Some(framing::frame(MARK_SCHEMA, datum)), headers: vec![kind.header()] }
}

/// The table of what counts at an offset, so that a reader can begin there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub log_id: LogId,
    /// The first offset that the table does not include.
    pub as_of: Offset,
    /// The source's freshness at that offset.
    pub freshness: Option<Millis>,
    pub table: EpochTable,
}

/// An order to every stream to start over from the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resync {
    /// Why, for people.
    pub reason: String,
}

/// The time up to which the provider has checked its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The source's time.
    pub at: Millis,
}

fn put_id(out: &mut Vec<u8>, id: &[u8; 16]) {
    out.extend_from_slice(id);
}

fn id(cursor: &mut Cursor<'_>) -> Result<[u8; 16], DatumError> {
    let mut id = [0; 16];
    id.copy_from_slice(cursor.take(16, "id")?);
    Ok(id)
}

fn agent(cursor: &mut Cursor<'_>) -> Result<AgentId, DatumError> {
    let at = cursor.at();
    cursor.string()?.parse().map_err(|_| DatumError::Invalid { at, what: "this is no participant/agent" })
}

fn optional<T>(
    cursor: &mut Cursor<'_>,
    read: impl FnOnce(&mut Cursor<'_>) -> Result<T, DatumError>,
) -> Result<Option<T>, DatumError> {
    let at = cursor.at();
    match cursor.long()? {
        0 => Ok(None),
        1 => read(cursor).map(Some),
        _ => Err(DatumError::Invalid { at, what: "a union has no such branch" }),
    }
}

/// An offset in the log; never negative.
pub(crate) fn offset(cursor: &mut Cursor<'_>) -> Result<u64, DatumError> {
    let at = cursor.at();
    u64::try_from(cursor.long()?).map_err(|_| DatumError::Invalid { at, what: "an offset is negative" })
}

/// Appends an offset in the log.
pub(crate) fn put_offset(out: &mut Vec<u8>, offset: u64) {
    binary::put_long(out, i64::try_from(offset).unwrap_or(i64::MAX));
}

pub(crate) fn put_optional_millis(out: &mut Vec<u8>, at: Option<Millis>) {
    match at {
        None => out.push(0),
        Some(at) => {
            binary::put_long(out, 1);
            binary::put_long(out, at.get());
        }
    }
}

pub(crate) fn optional_millis(cursor: &mut Cursor<'_>) -> Result<Option<Millis>, DatumError> {
    optional(cursor, |c| c.long().map(Millis::new))
}

impl Opening {
    /// As an Avro datum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        binary::put_string(&mut out, &self.agent.to_string());
        put_id(&mut out, self.epoch.as_bytes());
        match self.replaces {
            None => out.push(0),
            Some(epoch) => {
                binary::put_long(&mut out, 1);
                put_id(&mut out, epoch.as_bytes());
            }
        }
        out
    }

    /// From an Avro datum.
    pub fn decode(datum: &[u8]) -> Result<Self, DatumError> {
        let mut cursor = Cursor::new(datum);
        let opening = Self {
            agent: agent(&mut cursor)?,
            epoch: Epoch::new(id(&mut cursor)?),
            replaces: optional(&mut cursor, id)?.map(Epoch::new),
        };
        cursor.end().map(|()| opening)
    }
}

impl Checkpoint {
    /// As an Avro datum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_id(&mut out, self.log_id.as_bytes());
        put_offset(&mut out, self.as_of.get());
        put_optional_millis(&mut out, self.freshness);
        let count = self.table.entries().count();
        if count > 0 {
            binary::put_length(&mut out, count);
        }
        for (writer, entry) in self.table.entries() {
            binary::put_string(&mut out, writer.as_str());
            binary::put_string(&mut out, &entry.agent.to_string());
            put_id(&mut out, entry.epoch.as_bytes());
            put_offset(&mut out, entry.next.get());
            put_id(&mut out, entry.digest.as_bytes());
        }
        out.push(0);
        let ended =
            || self.table.entries().flat_map(|(writer, entry)| entry.ended.iter().map(move |e| (writer, e)));
        if ended().next().is_some() {
            binary::put_length(&mut out, ended().count());
        }
        for (writer, EpochEnd { epoch, next, digest }) in ended() {
            binary::put_string(&mut out, writer.as_str());
            put_id(&mut out, epoch.as_bytes());
            put_offset(&mut out, next.get());
            put_id(&mut out, digest.as_bytes());
        }
        out.push(0);
        out
    }

    /// From an Avro datum.
    pub fn decode(datum: &[u8]) -> Result<Self, DatumError> {
        let mut cursor = Cursor::new(datum);
        let log_id = LogId::new(id(&mut cursor)?);
        let as_of = Offset::new(offset(&mut cursor)?);
        let freshness = optional_millis(&mut cursor)?;
        let mut entries = BTreeMap::new();
        items(&mut cursor, limits::MAX_TABLE_ENTRIES, |cursor| {
            let writer = Writer::from_checkpoint(cursor.string()?.to_owned());
            let entry = Entry {
                agent: agent(cursor)?,
                epoch: Epoch::new(id(cursor)?),
                next: Sequence::new(offset(cursor)?),
                digest: Digest::new(id(cursor)?),
                ended: Vec::new(),
            };
            entries.insert(writer, entry);
            Ok(())
        })?;
        // Earlier versions wrote no ends.
        if cursor.at() < datum.len() {
            items(&mut cursor, limits::MAX_TABLE_ENTRIES * limits::MAX_ENDED_EPOCHS, |cursor| {
                let at = cursor.at();
                let writer = Writer::from_checkpoint(cursor.string()?.to_owned());
                let epoch = Epoch::new(id(cursor)?);
                let next = Sequence::new(offset(cursor)?);
                let ended = EpochEnd { epoch, next, digest: Digest::new(id(cursor)?) };
                let entry = entries.get_mut(&writer);
                let entry =
                    entry.ok_or(DatumError::Invalid { at, what: "an epoch of no writer has ended" })?;
                entry.ended.push(ended);
                Ok(())
            })?;
        }
        cursor.end().map(|()| Self { log_id, as_of, freshness, table: EpochTable::from_entries(entries) })
    }
}

/// Reads the items of an array, at most `most`.
fn items(
    cursor: &mut Cursor<'_>,
    most: usize,
    mut read: impl FnMut(&mut Cursor<'_>) -> Result<(), DatumError>,
) -> Result<(), DatumError> {
    let mut total = 0;
    loop {
        let at = cursor.at();
        let count = cursor.long()?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            cursor.length()?;
        }
        for _ in 0..count.unsigned_abs() {
            total += 1;
            if total > most {
                return Err(DatumError::Invalid { at, what: "a checkpoint has too many entries" });
            }
            read(cursor)?;
        }
    }
}

impl Resync {
    /// As an Avro datum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        binary::put_string(&mut out, &self.reason);
        out
    }

    /// From an Avro datum.
    pub fn decode(datum: &[u8]) -> Result<Self, DatumError> {
        let mut cursor = Cursor::new(datum);
        let reason = cursor.string()?.to_owned();
        cursor.end().map(|()| Self { reason })
    }
}

impl Freshness {
    /// As an Avro datum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        binary::put_long(&mut out, self.at.get());
        out
    }

    /// From an Avro datum.
    pub fn decode(datum: &[u8]) -> Result<Self, DatumError> {
        let mut cursor = Cursor::new(datum);
        let at = Millis::new(cursor.long()?);
        cursor.end().map(|()| Self { at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::schema::AvroSchema;

    fn checked(schema: &str, datum: Vec<u8>) -> Vec<u8> {
        let schema = AvroSchema::parse(schema).unwrap_or_else(|e| panic!("{e}"));
        schema.layout().validate(&datum).unwrap_or_else(|e| panic!("{e}"));
        datum
    }

    #[test]
    fn each_mark_is_what_its_schema_says() {
        let agent: AgentId = "4000/main".parse().unwrap_or_else(|e| panic!("{e}"));
        let opening =
            Opening { agent: agent.clone(), epoch: Epoch::new([1; 16]), replaces: Some(Epoch::new([2; 16])) };
        assert_eq!(Opening::decode(&checked(OPENING_SCHEMA, opening.encode())), Ok(opening));

        let entry = Entry {
            agent,
            epoch: Epoch::new([3; 16]),
            next: Sequence::new(4),
            digest: Digest::new([5; 16]),
            ended: Vec::new(),
        };
        let ended =
            EpochEnd { epoch: Epoch::new([2; 16]), next: Sequence::new(9), digest: Digest::new([7; 16]) };
        let with_ends = Entry { ended: vec![ended, ended], ..entry.clone() };
        let of = |entry| vec![(Writer::from_checkpoint(String::new()), entry)];
        for entries in [vec![], of(entry), of(with_ends)] {
            let checkpoint = Checkpoint {
                log_id: LogId::new([6; 16]),
                as_of: Offset::new(70_000),
                freshness: Some(Millis::new(8)),
                table: EpochTable::from_entries(entries),
            };
            let datum = checked(CHECKPOINT_SCHEMA, checkpoint.encode());
            assert_eq!(Checkpoint::decode(&datum), Ok(checkpoint.clone()));
            if checkpoint.table.entries().all(|(_, entry)| entry.ended.is_empty()) {
                let earlier = datum.split_last().map(|(_, earlier)| earlier).unwrap_or_default();
                assert_eq!(Checkpoint::decode(earlier), Ok(checkpoint), "as earlier versions wrote it");
            }
        }

        let resync = Resync { reason: "because".to_owned() };
        assert_eq!(Resync::decode(&checked(RESYNC_SCHEMA, resync.encode())), Ok(resync));
        let fresh = Freshness { at: Millis::new(9) };
        assert_eq!(Freshness::decode(&checked(FRESHNESS_SCHEMA, fresh.encode())), Ok(fresh));
    }
}

//! The records of a state topic: images, tombstones, checkpoints.
//!
//! Owns their shape. A checkpoint has the type that it has in the log, and the key 0xFF, which no text has.

use schemas::change::{Change, ChangeCodec, Op};
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::marks::{Checkpoint, MARK_SCHEMA};
use schemas::record::{Kind, LOG_OFFSET_HEADER, Record};

const CHECKPOINT_KEY: u8 = 0xFF;
/// On a state checkpoint: the log's own checkpoint record that readers fold from.
const LOG_CHECKPOINT_HEADER: &str = "dit_log_checkpoint";

/// The present image after a change, or its tombstone.
pub(super) fn image(schema: SchemaId, change: &Change<'_>, offset: Offset) -> Record {
    let value = change.after.map(|after| {
        let mut datum = Vec::with_capacity(after.len() + 128);
        ChangeCodec::encode(
            &Change { op: Op::Read, before: None, after: Some(after), ..*change },
            &mut datum,
        );
        framing::frame(schema, &datum)
    });
    let headers = vec![Kind::Change.header(), (LOG_OFFSET_HEADER.to_owned(), offset.to_string().into())];
    Record { key: Some(change.key.into()), value, headers }
}

/// The checkpoint that ends a transaction.
pub(super) fn checkpoint(checkpoint: &Checkpoint, log_checkpoint: Offset) -> Record {
    let value = Some(framing::frame(MARK_SCHEMA, &checkpoint.encode()));
    let log_checkpoint = (LOG_CHECKPOINT_HEADER.to_owned(), log_checkpoint.to_string().into());
    Record {
        key: Some(vec![CHECKPOINT_KEY]),
        value,
        headers: vec![Kind::Checkpoint.header(), log_checkpoint],
    }
}

/// A checkpoint and the log's own checkpoint record, if that is what the record is.
pub(super) fn read_checkpoint(record: &Record) -> Option<(Checkpoint, Offset)> {
    if record.key.as_deref() != Some(&[CHECKPOINT_KEY]) {
        return None;
    }
    let (_, datum) = framing::unframe(record.value.as_deref()?).ok()?;
    let log_checkpoint = record.header_text(LOG_CHECKPOINT_HEADER)?.parse().ok()?;
    Some((Checkpoint::decode(datum).ok()?, Offset::new(log_checkpoint)))
}

/// The log offset whose image a record is.
pub(super) fn log_offset(record: &Record) -> Option<Offset> {
    record.header_text(LOG_OFFSET_HEADER)?.parse().ok().map(Offset::new)
}

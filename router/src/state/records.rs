//! The records of a state topic: images, tombstones, checkpoints.
//!
//! Owns their shape. A checkpoint has the same type as in the log, and the key 0xFF, which is no text.

use schemas::block;
use schemas::change::{Change, ChangeCodec, Op};
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::marks::{Checkpoint, MARK_SCHEMA};
use schemas::position::EventPosition;
use schemas::record::{Kind, LOG_POSITION_HEADER, Record};

const CHECKPOINT_KEY: u8 = 0xFF;
/// On a state checkpoint: the log's own checkpoint record that readers fold from.
const LOG_CHECKPOINT_HEADER: &str = "dit_log_checkpoint";
/// On a state checkpoint: the log offset before which events are missing from the state.
const OVERTAKEN_HEADER: &str = "dit_overtaken";

/// What a state topic's checkpoint record says.
#[derive(Debug, Clone)]
pub struct StateMark {
    /// The fold where the state ends.
    pub checkpoint: Checkpoint,
    /// The log's own checkpoint record that readers fold from.
    pub log_checkpoint: Offset,
    /// Before this offset the log lost events that the state lacks: until an opening at or after it has counted, images
    /// may be old.
    pub overtaken: Option<Offset>,
}

/// The present image after a change, or its tombstone. The value is a block of one, so that log and state have one schema.
pub(super) fn image(schema: SchemaId, change: &Change<'_>, position: EventPosition) -> Record {
    let value = change.after.map(|after| {
        let mut datum = Vec::with_capacity(after.len() + 128);
        ChangeCodec::encode(
            &Change { op: Op::Read, before: None, after: Some(after), ..*change },
            &mut datum,
        );
        framing::frame(schema, &block::of_one(&datum))
    });
    let headers = vec![Kind::Image.header(), (LOG_POSITION_HEADER.to_owned(), position.to_string().into())];
    Record { key: Some(change.key.into()), value, headers }
}

/// The checkpoint that ends a transaction.
pub(super) fn checkpoint(mark: &StateMark) -> Record {
    let value = Some(framing::frame(MARK_SCHEMA, &mark.checkpoint.encode()));
    let offset = |header: &str, offset: Offset| (header.to_owned(), offset.to_string().into());
    let mut headers = vec![Kind::Checkpoint.header(), offset(LOG_CHECKPOINT_HEADER, mark.log_checkpoint)];
    headers.extend(mark.overtaken.map(|before| offset(OVERTAKEN_HEADER, before)));
    Record { key: Some(vec![CHECKPOINT_KEY]), value, headers }
}

/// A checkpoint's contents; `None` for any other record.
pub(super) fn read_checkpoint(record: &Record) -> Option<StateMark> {
    if record.key.as_deref() != Some(&[CHECKPOINT_KEY]) {
        return None;
    }
    let (_, datum) = framing::unframe(record.value.as_deref()?).ok()?;
    let log_checkpoint = Offset::new(record.header_text(LOG_CHECKPOINT_HEADER)?.parse().ok()?);
    let overtaken = record.header_text(OVERTAKEN_HEADER).map(str::parse).transpose().ok()?.map(Offset::new);
    Some(StateMark { checkpoint: Checkpoint::decode(datum).ok()?, log_checkpoint, overtaken })
}

/// The position of the event that an image is from.
pub(super) fn log_position(record: &Record) -> Option<EventPosition> {
    record.header_text(LOG_POSITION_HEADER)?.parse().ok()
}

//! The records of a state topic: images, tombstones, checkpoints.
//!
//! Owns their shape. A checkpoint has the same type as in the log, and the key 0xFF, which is no text.

use reading::located::LocatedChange;
use schemas::block;
use schemas::framing;
use schemas::ids::Offset;
use schemas::marks::{Checkpoint, MARK_SCHEMA};
use schemas::position::EventPosition;
use schemas::record::{Kind, LOG_POSITION_HEADER, Record, header};

const CHECKPOINT_KEY: u8 = 0xFF;
/// Bytes of a record besides its image, as a rule: key, source and times.
const IMAGE_ROOM: usize = 128;
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
pub(super) fn image(event: &LocatedChange<'_>) -> Record {
    let value = event.change.images.after.map(|after| {
        let mut value = Vec::with_capacity(after.bytes().len() + IMAGE_ROOM);
        framing::put(event.schema, &mut value);
        block::put_one(&mut value, |out| event.change.put_present(after, out));
        value
    });
    let headers = vec![Kind::Image.header(), header(LOG_POSITION_HEADER, event.position.to_string())];
    Record { key: Some(event.change.key.into()), value, headers }
}

/// The checkpoint that ends a transaction.
pub(super) fn checkpoint(mark: &StateMark) -> Record {
    let value = Some(framing::frame(MARK_SCHEMA, &mark.checkpoint.encode()));
    let offset = |name, offset: Offset| header(name, offset.to_string());
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

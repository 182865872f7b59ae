//! The records of a state topic: blocks of images, and checkpoints.
//!
//! Owns their shape, and how the last checkpoint before an offset is found. A block of the state is framed like one of the
//! log: each of its changes reads a present image, or deletes its key. A checkpoint has the same type as in the log.

use std::time::Duration;

use event_log::{Bounds, Log, ReadError, TopicError};
use schemas::block::OpenBlock;
use schemas::framing;
use schemas::ids::{Offset, Partition, SchemaId};
use schemas::marks::{Checkpoint, MARK_SCHEMA};
use schemas::position::{self, EventPosition};
use schemas::record::{Kind, POSITIONS_HEADER, Record, header};

use super::links::Link;

/// On a state checkpoint: the log's own checkpoint record that readers fold from.
const LOG_CHECKPOINT_HEADER: &str = "dit_log_checkpoint";
/// On a state checkpoint: the first offset of the state topic that the state needs.
const FIRST_HEADER: &str = "dit_first";
/// On a state checkpoint: the offset of the checkpoint before it.
const PREVIOUS_HEADER: &str = "dit_previous";
/// On a state checkpoint: how many blocks its commit has, right before it.
const BLOCKS_HEADER: &str = "dit_blocks";
/// On a state checkpoint: the log offset before which events are missing from the state.
const OVERTAKEN_HEADER: &str = "dit_overtaken";
/// A commit ends with its checkpoint: a few records back there is one, unless the commit was large.
const LOOK_BACK: u64 = 4;
const READ_BYTES: usize = 64 * 1024;

/// What a state topic's checkpoint record says.
#[derive(Debug, Clone)]
pub struct StateMark {
    /// The fold where the state ends.
    pub checkpoint: Checkpoint,
    /// The log's own checkpoint record that readers fold from.
    pub log_checkpoint: Offset,
    /// The state is the blocks from this offset of its topic on, up to the checkpoint.
    pub first: Offset,
    /// What it says of the records before it.
    pub(super) link: Link,
    /// Before this offset the log lost events that the state lacks: until an opening at or after it has counted, images
    /// may be old.
    pub overtaken: Option<Offset>,
}

/// A block of images, and the positions of the events that they are from.
pub(super) fn images(schema: SchemaId, block: OpenBlock, positions: &[EventPosition]) -> Record {
    let headers = vec![Kind::Images.header(), header(POSITIONS_HEADER, position::runs(positions))];
    Record { key: None, value: Some(block.finish_framed(schema)), headers }
}

/// The checkpoint that ends a commit.
pub(super) fn checkpoint(mark: &StateMark) -> Record {
    let value = Some(framing::frame(MARK_SCHEMA, &mark.checkpoint.encode()));
    let offset = |name, offset: Offset| header(name, offset.to_string());
    let mut headers = vec![
        Kind::Checkpoint.header(),
        offset(LOG_CHECKPOINT_HEADER, mark.log_checkpoint),
        offset(FIRST_HEADER, mark.first),
        header(BLOCKS_HEADER, mark.link.blocks.to_string()),
    ];
    headers.extend(mark.link.previous.map(|previous| offset(PREVIOUS_HEADER, previous)));
    headers.extend(mark.overtaken.map(|before| offset(OVERTAKEN_HEADER, before)));
    Record { key: None, value, headers }
}

/// A checkpoint's contents; `None` for any other record, and where it cannot be read.
pub(super) fn read_checkpoint(record: &Record) -> Option<StateMark> {
    if Kind::of(record) != Some(Kind::Checkpoint) {
        return None;
    }
    let (_, datum) = framing::unframe(record.value.as_deref()?).ok()?;
    Some(StateMark {
        checkpoint: Checkpoint::decode(datum).ok()?,
        log_checkpoint: offset(record, LOG_CHECKPOINT_HEADER)?,
        first: offset(record, FIRST_HEADER)?,
        link: link(record)?,
        overtaken: offset_if_any(record, OVERTAKEN_HEADER)?,
    })
}

/// What a checkpoint says of the records before it; `None` where it cannot be read.
pub(super) fn link(checkpoint: &Record) -> Option<Link> {
    let blocks = checkpoint.header_text(BLOCKS_HEADER)?.parse().ok()?;
    Some(Link { previous: offset_if_any(checkpoint, PREVIOUS_HEADER)?, blocks })
}

fn offset(record: &Record, name: &str) -> Option<Offset> {
    Some(Offset::new(record.header_text(name)?.parse().ok()?))
}

/// `Some(None)` without the header; `None` where it cannot be read.
fn offset_if_any(record: &Record, name: &str) -> Option<Option<Offset>> {
    match record.header(name) {
        Some(_) => offset(record, name).map(Some),
        None => Some(None),
    }
}

/// The positions of the events that a block's images are from.
pub(super) fn positions(record: &Record) -> Option<Vec<EventPosition>> {
    position::parse_runs(record.header_text(POSITIONS_HEADER)?).ok()
}

/// The last committed checkpoint within bounds, with its own offset.
pub(super) async fn last_checkpoint(
    log: &dyn Log,
    topic: &str,
    partition: Partition,
    Bounds { first, next: end }: Bounds,
) -> Result<Option<(Offset, StateMark)>, ReadError> {
    let mut back = LOOK_BACK;
    loop {
        let begin = first.max(Offset::new(end.get().saturating_sub(back)));
        let mut next = begin;
        let mut last = None;
        while next < end {
            let batch = log.read(topic, partition, next, READ_BYTES, Duration::ZERO).await?;
            if batch.next == next {
                break;
            }
            next = batch.next;
            let before_end = batch.records.into_iter().rev().skip_while(|stored| stored.offset >= end);
            last = before_end.into_iter().find(|s| Kind::of(&s.record) == Some(Kind::Checkpoint)).or(last);
        }
        if let Some(last) = last {
            let at = last.offset;
            // An older one would be another state.
            let why = || {
                format!(
                    "the checkpoint at {at} of {topic}, partition {partition}, cannot be read; restore the topic"
                )
            };
            let mark = read_checkpoint(&last.record).ok_or_else(|| TopicError::Unavailable(why()))?;
            return Ok(Some((at, mark)));
        }
        if begin <= first {
            return Ok(None);
        }
        back *= 8;
    }
}

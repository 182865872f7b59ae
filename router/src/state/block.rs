//! A block of the state as its readers have it: images in place, each with the position of its event.
//!
//! Owns the reading of one record. One of ours that cannot be read is never passed over: the keys in it would keep older
//! images, and deleted rows would come back.

use std::sync::Arc;

use event_log::Stored;
use reading::error::ReaderError;
use reading::located::{LocatedBlock, LocatedChange};
use reading::source::PartitionSource;
use schemas::change::ChangeCodec;
use schemas::digest::hash128;
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::position::EventPosition;
use schemas::record::Kind;

use super::links::Link;
use super::records;

/// Where an entry stands: its block's offset in the state topic, and its index there.
pub(super) type Entry = EventPosition;

/// A block of the state.
#[derive(Debug)]
pub(super) struct StateBlock {
    located: LocatedBlock,
    positions: Vec<EventPosition>,
}

/// A record of the state.
#[derive(Debug)]
pub(super) enum StateRecord {
    Block(StateBlock),
    Checkpoint(Link),
    /// Nobody of ours has committed it.
    Foreign,
}

impl StateRecord {
    /// Reads a record.
    pub(super) async fn read(
        source: &PartitionSource,
        topic: &str,
        stored: Stored,
    ) -> Result<Self, ReaderError> {
        let offset = stored.offset;
        let unreadable =
            |why: &str| source.lost_topic(topic, format!("offset {offset} cannot be read: {why}"));
        match Kind::of(&stored.record) {
            Some(Kind::Images) => {}
            Some(Kind::Checkpoint) => {
                let link = records::link(&stored.record);
                return link
                    .map(Self::Checkpoint)
                    .ok_or_else(|| unreadable("its headers are not a checkpoint's"));
            }
            _ => {
                tracing::warn!(%topic, partition = %source.partition, %offset, "a foreign record in the state is passed over");
                return Ok(Self::Foreign);
            }
        }
        let value = stored.record.value.as_deref().unwrap_or_default();
        let (schema, datum) = framing::unframe(value).map_err(|error| unreadable(&error.to_string()))?;
        let datum_at = value.len() - datum.len();
        let positions = records::positions(&stored.record).unwrap_or_default();
        let codec = source.codecs.codec(schema).await?;
        let located = LocatedBlock::locate(stored, schema, codec, datum_at);
        let located = located.map_err(|error| unreadable(&error.to_string()))?;
        if positions.len() != located.count() {
            return Err(unreadable("its positions are not as many as its images"));
        }
        Ok(Self::Block(StateBlock { located, positions }))
    }
}

impl StateRecord {
    /// The block, if it is one.
    pub(super) const fn block(&self) -> Option<&StateBlock> {
        match self {
            Self::Block(block) => Some(block),
            Self::Checkpoint(_) | Self::Foreign => None,
        }
    }
}

impl StateBlock {
    pub(super) const fn offset(&self) -> Offset {
        self.located.offset
    }

    pub(super) const fn schema(&self) -> SchemaId {
        self.located.schema
    }

    /// The codec of its schema.
    pub(super) const fn codec(&self) -> &Arc<ChangeCodec> {
        self.located.codec()
    }

    /// How many entries it has.
    pub(super) const fn count(&self) -> usize {
        self.located.count()
    }

    /// Its entries in order: where each stands, the hash of its key, and the change; one without an image after it says that
    /// the key is gone.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Entry, u128, LocatedChange<'_>)> {
        self.located.changes().map(|change| (change.position, hash128(change.change.key.as_bytes()), change))
    }

    /// An entry by its index, and the position of the event that it is from.
    pub(super) fn entry(&self, index: u32) -> Option<(LocatedChange<'_>, EventPosition)> {
        let position = self.positions.get(usize::try_from(index).ok()?)?;
        Some((self.located.change(index)?, *position))
    }
}

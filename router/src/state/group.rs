//! The next commit: the last change of each key that was touched, and the blocks that they become.
//!
//! Owns what waits for a commit. The blocks of a commit hold each key once, so that their order among each other says
//! nothing.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use reading::located::LocatedChange;
use schemas::block::OpenBlock;
use schemas::ids::SchemaId;
use schemas::position::EventPosition;
use schemas::record::Record;
use tokio::time::Instant;

use super::records;

/// Events of one commit.
pub(super) const COMMIT_EVENTS: usize = 10_000;
/// Bytes that are gathered for a commit. A partition's state holds them, then the blocks that are made of them and the
/// client's copy, besides its index.
const COMMIT_BYTES: usize = 1024 * 1024;
/// The longest wait of an event for its commit. Only late joiners and reopens wait for the state; for the brokers, a commit
/// of one record costs as much as one of hundreds.
pub(super) const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A key's last change in the group.
struct Waiting {
    key: u128,
    schema: SchemaId,
    position: EventPosition,
    datum: Range<usize>,
    /// A later change of the key has replaced it.
    is_replaced: bool,
}

/// The next commit.
#[derive(Default)]
pub(super) struct Group {
    /// What the state keeps of each change.
    datums: Vec<u8>,
    waiting: Vec<Waiting>,
    /// By hash of key: the index of its last change.
    index: HashMap<u128, usize>,
    /// When its first chunk came.
    pub(super) begun: Option<Instant>,
    /// The first event whose before image is not the state's.
    pub(super) differing: Option<EventPosition>,
}

impl Group {
    /// Adds a key's change, which replaces an earlier one.
    pub(super) fn put(&mut self, key: u128, event: &LocatedChange<'_>) {
        let start = self.datums.len();
        event.change.put_present(&mut self.datums);
        let datum = start..self.datums.len();
        let LocatedChange { schema, position, .. } = *event;
        let earlier = self.index.insert(key, self.waiting.len());
        self.waiting.push(Waiting { key, schema, position, datum, is_replaced: false });
        if let Some(earlier) = earlier.and_then(|index| self.waiting.get_mut(index)) {
            earlier.is_replaced = true;
        }
    }

    /// Whether it has a change of the key.
    pub(super) fn has(&self, key: u128) -> bool {
        self.index.contains_key(&key)
    }

    /// The schema and the datum of a key's last change.
    pub(super) fn last(&self, key: u128) -> Option<(SchemaId, &[u8])> {
        let waiting = self.waiting.get(*self.index.get(&key)?)?;
        Some((waiting.schema, self.datums.get(waiting.datum.clone())?))
    }

    /// Events in it.
    pub(super) fn events(&self) -> u64 {
        u64::try_from(self.waiting.len()).unwrap_or(u64::MAX)
    }

    /// Keys in it.
    pub(super) fn keys(&self) -> u64 {
        u64::try_from(self.index.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= COMMIT_EVENTS || self.datums.len() >= COMMIT_BYTES
    }

    /// When it must be committed; `None` while it has nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        self.begun.map(|begun| if self.is_full() { begun } else { begun + COMMIT_EVERY })
    }

    /// Puts the last change of each key into the blocks of the commit.
    pub(super) fn put_into(&self, blocks: &mut Blocks) {
        for waiting in self.waiting.iter().filter(|waiting| !waiting.is_replaced) {
            let Some(datum) = self.datums.get(waiting.datum.clone()) else { continue };
            blocks.put(waiting.schema, waiting.key, waiting.position, datum);
        }
    }
}

/// A block that still takes entries.
struct Open {
    schema: SchemaId,
    block: OpenBlock,
    keys: Vec<u128>,
    positions: Vec<EventPosition>,
}

/// A block of images, and the hash of each entry's key.
pub(super) struct Images {
    pub(super) record: Record,
    pub(super) keys: Vec<u128>,
}

/// The blocks of one commit.
#[derive(Default)]
pub(super) struct Blocks {
    /// One of each schema.
    open: Vec<Open>,
    full: Vec<Images>,
    bytes: usize,
}

impl Open {
    fn new(schema: SchemaId) -> Self {
        Self { schema, block: OpenBlock::default(), keys: Vec::new(), positions: Vec::new() }
    }

    fn finish(self) -> Images {
        Images { record: records::images(self.schema, self.block, &self.positions), keys: self.keys }
    }
}

impl Blocks {
    /// Adds an entry to the open block of its schema.
    pub(super) fn put(&mut self, schema: SchemaId, key: u128, position: EventPosition, datum: &[u8]) {
        self.bytes += datum.len();
        let at = match self.open.iter().position(|open| open.schema == schema) {
            Some(at) => at,
            None => {
                self.open.push(Open::new(schema));
                self.open.len() - 1
            }
        };
        let Some(open) = self.open.get_mut(at) else { return };
        if !open.block.has_room_for(datum.len()) {
            self.full.push(std::mem::replace(open, Open::new(schema)).finish());
        }
        open.block.push(datum);
        open.keys.push(key);
        open.positions.push(position);
    }

    /// Bytes of its entries.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// All blocks, in the order in which they are committed.
    pub(super) fn finish(self) -> Vec<Images> {
        let Self { open, mut full, .. } = self;
        full.extend(open.into_iter().map(Open::finish));
        full
    }
}

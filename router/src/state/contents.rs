//! What a state topic holds: where each key's present image stands, and how much else there is.
//!
//! Owns the index of what is present, and cleaning. The oldest block is cleaned first: nothing before it can bring a deleted key back,
//! so that its deletes are simply dropped (docs/models/state.py plays the other orders). No more images are written again
//! than entries were added, so that an event is written twice at most, as a rule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Bounds, ReadError};
use reading::located::LocatedChange;
use reading::source::PartitionSource;
use schemas::change::ChangeCodec;
use schemas::digest::hash128;
use schemas::ids::{Offset, SchemaId};
use schemas::limits::MAX_BLOCK_CHANGES;
use schemas::time::Millis;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::BOOTSTRAP_BOUND;
use super::block::{Entry, StateBlock, StateRecord};
use super::group::{Blocks, Group};
use super::links::Link;
use super::records::{self, StateMark};
use super::scan::{Met, Scan, ScanError, StateBounds, check_begin};

/// Entries that no cleaning is worth: those of a small state, and its checkpoints.
const SPARE_ENTRIES: u64 = 64;
/// Bytes of a checkpoint that count as one entry: those of an image, as a rule. It holds the whole table of epochs.
const ENTRY_BYTES: u64 = 256;
/// Bytes of images that one commit writes again, besides those of its own events.
const AGAIN_BYTES: usize = 1024 * 1024;
/// Reads of one commit's cleaning: what is left waits for the next commit.
const READS_AT_ONCE: usize = 16;
/// Entries that one commit can pay for: those of a full one and what remained.
const MOST_PAID: u64 = 20_000;
/// The time between two looks for records that nobody needs any more.
const DELETE_EVERY: Duration = Duration::from_hours(1);
const READ_BYTES: usize = 512 * 1024;

/// What the state holds for a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    /// The hash of its image.
    pub(super) image: u128,
    pub(super) schema: SchemaId,
    /// Where its image stands, unless a group has a later one.
    entry: Entry,
}

/// How much the topic holds, from the first block that the state needs to its last checkpoint.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// The first offset that the state needs.
    first: Offset,
    /// The last checkpoint.
    last: Option<Offset>,
    /// Entries of all blocks from `first` on, and what its checkpoints count as.
    entries: u64,
    /// What the last checkpoint counts as.
    checkpoint: u64,
    /// The topic came to hold too much, and does not hold little again.
    is_cleaning: bool,
    /// Entries that were added, and that have not paid for one that was written again.
    paid: u64,
    /// The next cleaning waits until so many have been added.
    price: u64,
}

/// What a state topic holds of one partition.
pub(super) struct Contents {
    source: PartitionSource,
    topic: String,
    /// By hash of key.
    present: HashMap<u128, Present>,
    extent: Extent,
    /// The block in which an image was last looked up: the next image is in it, as a rule.
    looked_up: Option<StateBlock>,
    /// When records that nobody needs were last looked for.
    last_deletion: Option<Instant>,
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The entries that a checkpoint of so many bytes counts as.
fn weight(bytes: usize) -> u64 {
    1 + number(bytes) / ENTRY_BYTES
}

impl Extent {
    /// A state that begins at an offset of its topic.
    const fn beginning(first: Offset) -> Self {
        let (last, entries, checkpoint, is_cleaning, price) = (None, 0, 0, false, 0);
        // A new writer does not know what was paid.
        Self { first, last, entries, checkpoint, is_cleaning, paid: MOST_PAID, price }
    }

    /// Takes in a commit's checkpoint, which has so many bytes, and the entries of its blocks.
    fn committed(&mut self, checkpoint: Offset, bytes: usize, entries: usize) {
        self.last = Some(checkpoint);
        self.checkpoint = weight(bytes);
        self.entries += number(entries) + self.checkpoint;
    }

    /// Entries are added, and pay for as many that are written again.
    fn pay(&mut self, added: u64) {
        self.paid = (self.paid + added + self.checkpoint).min(MOST_PAID);
    }

    /// Whether so many entries are too many for the present keys. Cleaning begins late and goes on until there are few:
    /// each look at the oldest blocks costs a read.
    fn is_too_much(&mut self, entries: u64, present: u64) -> bool {
        let enough = if self.is_cleaning { present + present / 2 } else { 2 * present + SPARE_ENTRIES };
        self.is_cleaning = entries > enough;
        self.is_cleaning
    }

    /// The oldest block costs more than was paid: the next look waits, and does not come for a few entries.
    fn wait(&mut self, price: u64, present: u64) {
        self.price = price.max((present / 8).min(u64::from(MAX_BLOCK_CHANGES)));
    }
}

impl Contents {
    /// What the topic holds at its last checkpoint, and the checkpoint.
    pub(super) async fn read(
        source: PartitionSource,
        topic: String,
    ) -> Result<(Self, Option<StateMark>), ScanError> {
        let StateBounds { first, last } = StateBounds::find(&source, &topic).await?;
        let (mut present, mut extent) = (HashMap::new(), Extent::beginning(first));
        let end = last.as_ref().map_or(first, |(end, _)| end.next());
        let mut scan = Scan::new(source.clone(), topic.clone(), first, end);
        while let Some(met) = scan.next().await? {
            for Met { offset, bytes, record } in met {
                match record {
                    StateRecord::Block(block) => {
                        extent.entries += number(block.count());
                        for (entry, key, event) in block.entries() {
                            consume_budget().await;
                            put(&mut present, key, entry, &event);
                        }
                    }
                    StateRecord::Checkpoint(_) => extent.committed(offset, bytes, 0),
                    StateRecord::Foreign => {}
                }
            }
        }
        let contents = Self { source, topic, present, extent, looked_up: None, last_deletion: None };
        Ok((contents, last.map(|(_, mark)| mark)))
    }

    /// What it holds for a key, a group's change included.
    pub(super) fn get(&self, key: u128) -> Option<&Present> {
        self.present.get(&key)
    }

    /// Takes in a group's change of a key. Where its image stands is known when it is committed.
    pub(super) fn take(&mut self, key: u128, event: &LocatedChange<'_>) {
        put(&mut self.present, key, Entry::default(), event);
    }

    /// Takes in a commit: the hashes of its blocks' keys, and the checkpoint that follows the blocks, with its bytes.
    pub(super) fn committed(&mut self, checkpoint: Offset, bytes: usize, keys: &[Vec<u128>]) {
        let first = checkpoint.get().saturating_sub(number(keys.len()));
        for (block, keys) in (first..).map(Offset::new).zip(keys) {
            for (index, key) in (0..).zip(keys) {
                if let Some(present) = self.present.get_mut(key) {
                    present.entry = Entry { offset: block, index };
                }
            }
        }
        self.extent.committed(checkpoint, bytes, keys.iter().map(Vec::len).sum());
        self.looked_up = None;
    }

    /// What the next checkpoint says of the records before it.
    pub(super) fn link(&self, blocks: usize) -> Link {
        Link { previous: self.extent.last, blocks: number(blocks) }
    }

    /// The first offset that the state needs.
    pub(super) const fn first(&self) -> Offset {
        self.extent.first
    }

    /// A key's image, and the codec of its schema; `None` where the topic has it not.
    pub(super) async fn image(
        &mut self,
        present: Present,
    ) -> Result<Option<(Arc<ChangeCodec>, Vec<u8>)>, ScanError> {
        let Entry { offset, index } = present.entry;
        if self.looked_up.as_ref().is_none_or(|block| block.offset() != offset) {
            let source = &self.source;
            let read = source.log.read(&self.topic, source.partition, offset, 1, Duration::ZERO).await?;
            let stored = read.records.into_iter().find(|stored| stored.offset == offset);
            self.looked_up = None;
            if let Some(stored) = stored
                && let StateRecord::Block(block) = StateRecord::read(source, &self.topic, stored).await?
            {
                self.looked_up = Some(block);
            }
        }
        let Some(block) = &self.looked_up else { return Ok(None) };
        let image = block.entry(index).and_then(|(event, _)| event.change.images.after);
        Ok(image.map(|image| (Arc::clone(block.codec()), image.bytes().to_vec())))
    }

    /// Adds the present images of the oldest blocks to a commit, and moves the state's beginning behind them, while the
    /// topic holds too much and what was added has paid for it.
    pub(super) async fn clean(&mut self, group: &Group, blocks: &mut Blocks) -> Result<(), ScanError> {
        let present = number(self.present.len());
        self.extent.pay(group.keys());
        let mut held = self.extent.entries + group.keys();
        if self.extent.paid < self.extent.price || !self.extent.is_too_much(held, present) {
            return Ok(());
        }
        self.extent.price = 0;
        let bytes = blocks.bytes();
        for _ in 0..READS_AT_ONCE {
            let first = self.extent.first;
            if self.extent.last.is_none_or(|last| first > last) {
                break;
            }
            let Self { source, topic, extent, .. } = self;
            let batch = source.log.read(topic, source.partition, first, READ_BYTES, Duration::ZERO).await?;
            for stored in batch.records {
                if !extent.is_too_much(held, present) || blocks.bytes() - bytes >= AGAIN_BYTES {
                    return Ok(());
                }
                let next = stored.offset.next();
                let weight = weight(stored.record.size());
                let gone = match StateRecord::read(source, topic, stored).await? {
                    StateRecord::Block(block) => {
                        let live = live(&self.present, &block, group);
                        let price = number(live.len());
                        if price > extent.paid {
                            extent.wait(price, present);
                            return Ok(());
                        }
                        extent.paid -= price;
                        held += price;
                        write_again(&block, &live, blocks);
                        consume_budget().await;
                        number(block.count())
                    }
                    StateRecord::Checkpoint(_) => weight,
                    StateRecord::Foreign => 0,
                };
                held = held.saturating_sub(gone);
                extent.entries = extent.entries.saturating_sub(gone);
                extent.first = next;
            }
            if batch.next <= first {
                break;
            }
            extent.first = extent.first.max(batch.next);
        }
        Ok(())
    }

    /// Lets the log delete what no bootstrap can need: what was not needed any more a day ago.
    pub(super) async fn delete_when_due(&mut self) {
        if self.last_deletion.is_some_and(|last| last.elapsed() < DELETE_EVERY) {
            return;
        }
        self.last_deletion = Some(Instant::now());
        let bound = i64::try_from(BOOTSTRAP_BOUND.as_millis()).unwrap_or(i64::MAX);
        let partition = self.source.partition;
        match self.delete_old(platform::clock::now().plus(-bound)).await {
            Ok(()) => {}
            Err(ScanError::Reader(error)) => {
                tracing::error!(topic = %self.topic, %partition, %error, "the state lacks records; who joins late is refused");
            }
            Err(ScanError::Read(error)) => {
                tracing::warn!(topic = %self.topic, %partition, %error, again_in = ?DELETE_EVERY, "old records of the state could not be deleted; they take room, and nothing else")
            }
        }
    }

    /// Lets the log delete what the last checkpoint before a time did not need. Notices what is gone that should not be.
    async fn delete_old(&self, before: Millis) -> Result<(), ScanError> {
        let (log, topic, partition) = (self.source.log.as_ref(), &self.topic, self.source.partition);
        let bounds = log.bounds(topic, partition).await.map_err(ReadError::from)?;
        let begins = bounds.first;
        check_begin(&self.source, topic, begins, self.extent.first)?;
        if begins == self.extent.first {
            return Ok(());
        }
        let young = log.offset_at(topic, partition, before).await.map_err(ReadError::from)?;
        let old = Bounds { next: young, ..bounds };
        if let Some((_, old)) = records::last_checkpoint(log, topic, partition, old).await? {
            log.delete_records(topic, partition, old.first).await.map_err(ReadError::from)?;
        }
        Ok(())
    }
}

fn put(present: &mut HashMap<u128, Present>, key: u128, entry: Entry, event: &LocatedChange<'_>) {
    match event.change.images.after {
        Some(after) => {
            let image = hash128(after.bytes());
            present.insert(key, Present { image, schema: event.schema, entry });
        }
        None => drop(present.remove(&key)),
    }
}

/// The entries of a block whose images are present, and which no event of the group has touched.
fn live(present: &HashMap<u128, Present>, block: &StateBlock, group: &Group) -> Vec<(u128, u32)> {
    let is_live =
        |key: u128, entry| present.get(&key).is_some_and(|present| present.entry == entry) && !group.has(key);
    let live = block.entries().filter(|(entry, key, _)| is_live(*key, *entry));
    live.map(|(entry, key, _)| (key, entry.index)).collect()
}

fn write_again(block: &StateBlock, live: &[(u128, u32)], blocks: &mut Blocks) {
    let mut datum = Vec::new();
    for (key, index) in live {
        let Some((event, position)) = block.entry(*index) else { continue };
        datum.clear();
        event.change.put_present(&mut datum);
        blocks.put(block.schema(), *key, position, &datum);
    }
}

#[cfg(test)]
mod tests;

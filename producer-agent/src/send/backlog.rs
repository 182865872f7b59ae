//! The backlog: the outbox's unacknowledged entries, by partition, as far as they are in memory.
//!
//! Owns what is sent next in each partition, what is under way there, and the outbox position below which all is
//! acknowledged. Pure but for reading the outbox. A partition never waits for another one's answer; only for memory,
//! which they share.

use std::collections::VecDeque;

use schemas::ids::{Digest, Epoch, Partition, Sequence};
use schemas::limits;
use schemas::per_partition::PerPartition;

use crate::outbox::{Outbox, OutboxError, StoredEntry, Window};

/// Bytes of entries in memory, over all partitions.
const MEMORY_BYTES: usize = 3 * 1024 * 1024;
/// Bytes of a partition under way: well below a batch's limit. With twice as many the router's followers fell behind the
/// tail: on Kafka it took a fifth more CPU, and passed no more events.
const BYTES_UNDER_WAY: usize = 512 * 1024;
/// A partition's batches under way: where changes come one by one, the next ones need not wait for an append that takes
/// long.
const BATCHES_UNDER_WAY: u32 = 2;

/// What every batch says before its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) epoch: Epoch,
    pub(super) batch_schema: String,
}

/// One partition's entries.
#[derive(Debug, Clone, Default)]
struct Unacknowledged {
    /// The unacknowledged entries, in order.
    entries: VecDeque<StoredEntry>,
    /// How many of them, from the first on, are under way.
    sent: usize,
    /// Batches that are not answered.
    batches: u32,
    /// A batch was not taken: what is behind it cannot count, so that nothing goes out until all are answered.
    is_held: bool,
    /// Whether an answer acknowledged something since all batches before were answered.
    has_moved: bool,
}

/// What an answer means for its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    /// Events that it acknowledged.
    pub(super) events: u64,
    /// All batches are answered, one of them was not taken, and nothing was acknowledged.
    pub(super) in_vain: bool,
}

impl Unacknowledged {
    /// The entries of the next batch: what may be under way besides what is, but always one.
    fn next(&self) -> impl Iterator<Item = &StoredEntry> + Clone {
        let may_send = !self.is_held && self.batches < BATCHES_UNDER_WAY;
        let mut bytes: usize = self.entries.iter().take(self.sent).map(|stored| stored.entry.size()).sum();
        let mut events = 0;
        self.entries.iter().skip(self.sent).take_while(move |stored| {
            let is_alone = bytes == 0;
            bytes += stored.entry.size();
            events += usize::try_from(stored.entry.content.count()).unwrap_or(usize::MAX);
            may_send && (is_alone || (bytes <= BYTES_UNDER_WAY && events <= limits::MAX_BATCH_EVENTS))
        })
    }
}

#[derive(Debug)]
pub(super) struct Backlog {
    partitions: PerPartition<Unacknowledged>,
    head: Option<BatchHead>,
    /// Everything of the outbox below this is in memory, or acknowledged.
    read_to: u64,
    bytes: usize,
}

impl Backlog {
    /// Nothing of the outbox, from a position on.
    pub(super) fn from(position: u64, partitions: u32) -> Self {
        let partitions = PerPartition::filled(partitions, Unacknowledged::default());
        Self { partitions, head: None, read_to: position, bytes: 0 }
    }

    /// Reads on in the outbox while there is room; entries that the table has acknowledged are left out, and their
    /// events counted. Entries of another epoch or schema wait until all before them are acknowledged.
    pub(super) fn fill(
        &mut self,
        outbox: &Outbox,
        acknowledged: impl Fn(Partition) -> Sequence,
    ) -> Result<u64, OutboxError> {
        let mut events = 0;
        while self.bytes < MEMORY_BYTES && self.read_to < outbox.next_position() {
            let Window { epoch, batch_schema, entries } =
                outbox.read(self.read_to, MEMORY_BYTES - self.bytes)?;
            let head = BatchHead { epoch, batch_schema };
            let Some(last) = entries.last().map(|stored| stored.position) else { break };
            if self.bytes > 0 && self.head.as_ref() != Some(&head) {
                break;
            }
            self.head = Some(head);
            self.read_to = last + 1;
            for stored in entries {
                let partition = stored.entry.partition;
                if stored.entry.sequence < acknowledged(partition) {
                    events += u64::from(stored.entry.content.count());
                    continue;
                }
                let Some(own) = self.partitions.get_mut(partition) else {
                    return Err(OutboxError::NoPartition { partition });
                };
                self.bytes += stored.entry.size();
                own.entries.push_back(stored);
            }
        }
        Ok(events)
    }

    /// What all its batches say first; `None` before the first entry.
    pub(super) const fn head(&self) -> Option<&BatchHead> {
        self.head.as_ref()
    }

    /// The entries of a partition that are sent together next; none while it may send nothing.
    pub(super) fn batch(&self, partition: Partition) -> impl Iterator<Item = &StoredEntry> + Clone {
        self.partitions.get(partition).into_iter().flat_map(Unacknowledged::next)
    }

    /// The digest of the last entry under way, which the next batch continues; `None` when nothing is under way.
    pub(super) fn digest_under_way(&self, partition: Partition) -> Option<Digest> {
        let own = self.partitions.get(partition)?;
        Some(own.entries.get(own.sent.checked_sub(1)?)?.entry.digest)
    }

    /// Takes note that the next batch of a partition is under way.
    pub(super) fn send(&mut self, partition: Partition) {
        let Some(own) = self.partitions.get_mut(partition) else { return };
        own.sent += own.next().count();
        own.batches += 1;
    }

    /// A batch of a partition, which ends before `end`, was answered: everything below `next` is acknowledged. Drops
    /// that.
    pub(super) fn answered(&mut self, partition: Partition, end: Sequence, next: Sequence) -> Answered {
        let mut answered = Answered { events: 0, in_vain: false };
        let Some(own) = self.partitions.get_mut(partition) else { return answered };
        while let Some(stored) = own.entries.pop_front_if(|stored| stored.entry.sequence < next) {
            answered.events += u64::from(stored.entry.content.count());
            self.bytes -= stored.entry.size();
            own.sent = own.sent.saturating_sub(1);
        }
        own.batches = own.batches.saturating_sub(1);
        own.is_held |= next < end;
        own.has_moved |= answered.events > 0;
        if own.batches == 0 {
            answered.in_vain = own.is_held && !own.has_moved;
            own.sent = 0;
            own.is_held = false;
            own.has_moved = false;
        }
        answered
    }

    /// Whether an entry of a partition ends its chain at (next, digest).
    pub(super) fn has_end(&self, partition: Partition, next: Sequence, digest: Digest) -> bool {
        let mut entries = self.partitions.get(partition).into_iter().flat_map(|own| &own.entries);
        entries.any(|stored| stored.entry.next() == next && stored.entry.digest == digest)
    }

    /// The outbox position below which everything is acknowledged.
    pub(super) fn position(&self) -> u64 {
        let firsts = self.partitions.values().filter_map(|own| own.entries.front());
        firsts.map(|stored| stored.position).min().unwrap_or(self.read_to)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use platform::segments::memory_disk::MemoryDisk;
    use schemas::avro::schema::AvroSchema;
    use schemas::block::OpenBlock;
    use schemas::change::ChangeCodec;

    use super::*;
    use crate::outbox::{Block, Content};

    const PARTITIONS: u32 = 2;

    fn codec(field: &str) -> ChangeCodec {
        let schema =
            format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"string"}}]}}"#);
        ChangeCodec::new(&AvroSchema::parse(&schema).unwrap()).unwrap()
    }

    fn outbox() -> Outbox {
        let disk = Arc::new(MemoryDisk::new());
        Outbox::open(disk, Path::new("/outbox"), Epoch::new([1; 16]), &codec("k"), PARTITIONS).unwrap()
    }

    /// A block of one change of so many bytes.
    fn block(partition: u32, bytes: usize) -> (Partition, Content) {
        let mut changes = OpenBlock::default();
        changes.push(&vec![7; bytes]);
        (Partition::new(partition), Content::Block(Block::new(changes, Vec::new())))
    }

    fn none(_: Partition) -> Sequence {
        Sequence::new(0)
    }

    fn sequences(backlog: &Backlog, partition: u32) -> Vec<u64> {
        backlog.batch(Partition::new(partition)).map(|stored| stored.entry.sequence.get()).collect()
    }

    /// Sends a partition's next batch; returns its sequences.
    fn send(backlog: &mut Backlog, partition: u32) -> Vec<u64> {
        let sent = sequences(backlog, partition);
        backlog.send(Partition::new(partition));
        sent
    }

    /// The answer to a batch that ended before `end`, when everything below `next` is acknowledged.
    fn answer(backlog: &mut Backlog, partition: u32, end: u64, next: u64) -> u64 {
        backlog.answered(Partition::new(partition), Sequence::new(end), Sequence::new(next)).events
    }

    /// Blocks of which two are as much as may be under way.
    fn large(count: usize) -> Vec<(Partition, Content)> {
        (0..count).map(|_| block(0, BYTES_UNDER_WAY / 2 - 1_000)).collect()
    }

    /// Four blocks of one change, sent as two batches of two.
    fn with_two_under_way() -> (Outbox, Backlog) {
        let mut outbox = outbox();
        let mut backlog = Backlog::from(0, PARTITIONS);
        for first in [0, 2] {
            outbox.append(&codec("k"), &[block(0, 10), block(0, 10)]).unwrap();
            backlog.fill(&outbox, none).unwrap();
            assert_eq!(backlog.digest_under_way(Partition::new(0)).is_some(), first > 0);
            assert_eq!(send(&mut backlog, 0), [first, first + 1]);
        }
        outbox.append(&codec("k"), &(4..12).map(|_| block(0, 10)).collect::<Vec<_>>()).unwrap();
        backlog.fill(&outbox, none).unwrap();
        (outbox, backlog)
    }

    #[test]
    fn a_partition_goes_on_while_another_waits_and_the_position_waits_for_both() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &[block(0, 10), block(1, 10), block(0, 10), block(1, 10)]).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        assert_eq!(backlog.fill(&outbox, none).unwrap(), 0);
        assert_eq!((send(&mut backlog, 0), send(&mut backlog, 1)), (vec![0, 1], vec![0, 1]));
        assert_eq!(answer(&mut backlog, 1, 2, 2), 2);
        assert_eq!((sequences(&backlog, 1).len(), backlog.position()), (0, 0));
        outbox.append(&codec("k"), &[block(1, 10)]).unwrap();
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 1), [2]);
        assert_eq!(answer(&mut backlog, 0, 2, 2), 2);
        assert_eq!(backlog.position(), 4, "only the last is left");
    }

    #[test]
    fn what_the_table_has_is_left_out_and_counted() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &[block(0, 10), block(1, 10), block(0, 10)]).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        let has_all = |_| Sequence::new(2);
        assert_eq!(backlog.fill(&outbox, has_all).unwrap(), 3);
        assert_eq!((backlog.position(), sequences(&backlog, 0).len()), (3, 0));
    }

    #[test]
    fn a_batch_and_the_memory_are_bounded() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &large(80)).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        backlog.fill(&outbox, none).unwrap();
        assert!(
            backlog.read_to < 20 && backlog.bytes < MEMORY_BYTES + BYTES_UNDER_WAY / 2,
            "{}",
            backlog.bytes
        );
        let mut next = 0;
        while next < 80 {
            assert_eq!(send(&mut backlog, 0), [next, next + 1], "as much as may be under way");
            assert_eq!(sequences(&backlog, 0), [0; 0]);
            next += 2;
            assert_eq!(answer(&mut backlog, 0, next, next), 2);
            backlog.fill(&outbox, none).unwrap();
        }
        assert_eq!((backlog.position(), backlog.bytes), (80, 0));
    }

    #[test]
    fn a_few_batches_are_under_way_and_each_goes_on_behind_the_last() {
        let (mut outbox, mut backlog) = with_two_under_way();
        let fourth = outbox.read(3, 1).unwrap().entries.pop().unwrap();
        assert_eq!(backlog.digest_under_way(Partition::new(0)), Some(fourth.entry.digest));
        assert_eq!(sequences(&backlog, 0), [0; 0], "as many as there may be");
        // The second's answer is heard first: it acknowledges the first, too.
        assert_eq!(answer(&mut backlog, 0, 4, 4), 4);
        assert_eq!(send(&mut backlog, 0), (4..12).collect::<Vec<_>>());
        outbox.append(&codec("k"), &[block(0, 10)]).unwrap();
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 0), [0; 0], "the first is not answered");
        assert_eq!(answer(&mut backlog, 0, 2, 4), 0);
        assert_eq!(send(&mut backlog, 0), [12]);
        assert_eq!(backlog.position(), 4);
    }

    #[test]
    fn nothing_goes_out_behind_a_batch_that_was_not_taken_until_all_are_answered() {
        let (_outbox, mut backlog) = with_two_under_way();
        assert_eq!(answer(&mut backlog, 0, 2, 0), 0, "it was not taken");
        assert_eq!(sequences(&backlog, 0), [0; 0]);
        let last = backlog.answered(Partition::new(0), Sequence::new(4), Sequence::new(0));
        assert_eq!(last, Answered { events: 0, in_vain: true });
        assert_eq!(
            sequences(&backlog, 0),
            (0..12).collect::<Vec<_>>(),
            "again, from the first unacknowledged one"
        );
        assert_eq!(backlog.digest_under_way(Partition::new(0)), None);
    }

    #[test]
    fn another_schema_waits_for_what_is_before_it() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &[block(0, 10)]).unwrap();
        outbox.append(&codec("l"), &[block(0, 10)]).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        backlog.fill(&outbox, none).unwrap();
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(send(&mut backlog, 0), [0]);
        let first = backlog.head().cloned();
        answer(&mut backlog, 0, 1, 1);
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 0), [1]);
        assert_ne!(backlog.head().cloned(), first);
    }
}

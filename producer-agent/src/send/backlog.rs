//! The backlog: the outbox's unacknowledged entries, by partition, as far as they are in memory.
//!
//! Owns what is sent next in each partition, and the outbox position below which all is acknowledged. Pure but for
//! reading the outbox. A partition never waits for another one's answer; only for memory, which they share.

use std::collections::VecDeque;

use schemas::ids::{Digest, Epoch, Partition, Sequence};
use schemas::limits;
use schemas::per_partition::PerPartition;

use crate::outbox::{Outbox, OutboxError, StoredEntry, Window};

/// Bytes of entries in memory, over all partitions.
const MEMORY_BYTES: usize = 3 * 1024 * 1024;
/// Bytes of one batch: well below a batch's limit.
const BATCH_BYTES: usize = 512 * 1024;

/// What every batch says before its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) epoch: Epoch,
    pub(super) batch_schema: String,
}

#[derive(Debug)]
pub(super) struct Backlog {
    /// The unacknowledged entries of each partition, in order.
    queues: PerPartition<VecDeque<StoredEntry>>,
    head: Option<BatchHead>,
    /// Everything of the outbox below this is in the queues, or acknowledged.
    read_to: u64,
    bytes: usize,
}

impl Backlog {
    /// Nothing of the outbox, from a position on.
    pub(super) fn from(position: u64, partitions: u32) -> Self {
        let queues = PerPartition::filled(partitions, VecDeque::new());
        Self { queues, head: None, read_to: position, bytes: 0 }
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
                let Some(queue) = self.queues.get_mut(partition) else {
                    return Err(OutboxError::NoPartition { partition });
                };
                self.bytes += stored.entry.size();
                queue.push_back(stored);
            }
        }
        Ok(events)
    }

    /// What all its batches say first; `None` before the first entry.
    pub(super) const fn head(&self) -> Option<&BatchHead> {
        self.head.as_ref()
    }

    /// The entries of a partition that are sent together next.
    pub(super) fn batch(&self, partition: Partition) -> impl Iterator<Item = &StoredEntry> + Clone {
        let mut bytes = 0;
        let mut events = 0;
        self.queues.get(partition).into_iter().flatten().take_while(move |stored| {
            let is_first = bytes == 0;
            bytes += stored.entry.size();
            events += usize::try_from(stored.entry.content.count()).unwrap_or(usize::MAX);
            is_first || (bytes <= BATCH_BYTES && events <= limits::MAX_BATCH_EVENTS)
        })
    }

    /// Whether an entry of a partition ends its chain at (next, digest).
    pub(super) fn has_end(&self, partition: Partition, next: Sequence, digest: Digest) -> bool {
        let mut entries = self.queues.get(partition).into_iter().flatten();
        entries.any(|stored| stored.entry.next() == next && stored.entry.digest == digest)
    }

    /// Drops a partition's entries below its next sequence; returns how many events they had.
    pub(super) fn acknowledge(&mut self, partition: Partition, next: Sequence) -> u64 {
        let mut events = 0;
        let Some(queue) = self.queues.get_mut(partition) else { return events };
        while let Some(stored) = queue.pop_front_if(|stored| stored.entry.sequence < next) {
            events += u64::from(stored.entry.content.count());
            self.bytes -= stored.entry.size();
        }
        events
    }

    /// The outbox position below which everything is acknowledged.
    pub(super) fn position(&self) -> u64 {
        let firsts = self.queues.values().filter_map(|queue| queue.front());
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

    #[test]
    fn a_partition_goes_on_while_another_waits_and_the_position_waits_for_both() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &[block(0, 10), block(1, 10), block(0, 10), block(1, 10)]).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        assert_eq!(backlog.fill(&outbox, none).unwrap(), 0);
        assert_eq!((sequences(&backlog, 0), sequences(&backlog, 1)), (vec![0, 1], vec![0, 1]));
        assert_eq!(backlog.acknowledge(Partition::new(1), Sequence::new(2)), 2);
        assert_eq!((sequences(&backlog, 1).len(), backlog.position()), (0, 0));
        outbox.append(&codec("k"), &[block(1, 10)]).unwrap();
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 1), [2]);
        assert_eq!(backlog.acknowledge(Partition::new(0), Sequence::new(2)), 2);
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
        let large: Vec<_> = (0..40).map(|_| block(0, 200_000)).collect();
        outbox.append(&codec("k"), &large).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 0).len(), 2, "half a mebibyte");
        assert!(backlog.read_to < 20 && backlog.bytes < MEMORY_BYTES + 200_100, "{}", backlog.bytes);
        let mut next = 0;
        while next < 40 {
            next = sequences(&backlog, 0).last().unwrap() + 1;
            backlog.acknowledge(Partition::new(0), Sequence::new(next));
            backlog.fill(&outbox, none).unwrap();
        }
        assert_eq!((backlog.position(), backlog.bytes), (40, 0));
    }

    #[test]
    fn another_schema_waits_for_what_is_before_it() {
        let mut outbox = outbox();
        outbox.append(&codec("k"), &[block(0, 10)]).unwrap();
        outbox.append(&codec("l"), &[block(0, 10)]).unwrap();
        let mut backlog = Backlog::from(0, PARTITIONS);
        backlog.fill(&outbox, none).unwrap();
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 0), [0]);
        let first = backlog.head().cloned();
        backlog.acknowledge(Partition::new(0), Sequence::new(1));
        backlog.fill(&outbox, none).unwrap();
        assert_eq!(sequences(&backlog, 0), [1]);
        assert_ne!(backlog.head().cloned(), first);
    }
}

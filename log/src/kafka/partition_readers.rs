//! Reading many partitions at many positions over few clients.
//!
//! Owns the partition readers. A partition reader is one partition on one client, and has its own queue and position. A
//! client has a partition only once, so there are as many positions in one partition as there are clients. Unused
//! readers are closed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::{Metadata, MetadataPartition};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::client::{Clients, ReadClient};
use super::context::Context;
use super::offset;
use super::served::ServedClient;
use crate::{Batch, Stored, TopicError};

/// A reader is closed after so long without use: the records that it fetched ahead take memory, and until then its client
/// asks its broker for more.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// How long a client is asked for a topic's leaders: later it learns them by itself.
const LEADERS_LIMIT: Duration = Duration::from_secs(1);

/// A partition by its name on the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TopicPartition {
    pub(super) topic: Arc<str>,
    pub(super) id: Partition,
    /// The partition's number in Kafka's protocol.
    pub(super) number: i32,
}

impl TopicPartition {
    /// A partition of the topic `<prefix><topic>`; `None` where Kafka's protocol has no such number.
    pub(super) fn new(prefix: &str, topic: &str, partition: Partition) -> Option<Self> {
        let number = i32::try_from(partition.get()).ok()?;
        Some(Self { topic: format!("{prefix}{topic}").into(), id: partition, number })
    }
}

/// The result of one reading.
pub(super) enum Collected {
    /// At least one record.
    Records(Batch),
    /// No record, and the end was reached.
    End,
    /// Nothing until the deadline.
    Nothing,
}

struct Assigned {
    client: usize,
    partition: TopicPartition,
    queue: PartitionQueue<Context>,
    nonempty: Arc<Notify>,
    position: Offset,
    /// Where the partition ended before the reader was opened.
    end: Offset,
    has_ended: bool,
    /// Whether anything came since it was opened: a record, or the mark of the partition's end.
    is_alive: bool,
    fault: Option<KafkaError>,
    since: Instant,
}

#[derive(Default)]
struct State {
    idle: Vec<Assigned>,
    /// Client and partition of every reader, idle or in use.
    open: HashSet<(usize, TopicPartition)>,
    /// As many turns for a partition as there are clients: who waits gets one in the order of coming. Only known topics'
    /// partitions are read.
    turns: HashMap<TopicPartition, Arc<Semaphore>>,
}

struct Shared {
    clients: Vec<ReadClient>,
    /// The topics of which each client knows the leaders. A client is asked for one at a time.
    acquainted: Vec<tokio::sync::Mutex<HashSet<Arc<str>>>>,
    state: Mutex<State>,
    /// A reader was closed.
    closed: Notify,
}

/// The readers of some clients.
pub(super) struct PartitionReaders {
    shared: Arc<Shared>,
    served: Vec<ServedClient>,
}

impl PartitionReaders {
    pub(super) fn new(cluster: &Clients, count: usize, wait: Duration) -> Result<Self, TopicError> {
        let clients = (0..count).map(|_| cluster.read_client(wait)).collect::<Result<_, _>>()?;
        let acquainted = (0..count).map(|_| tokio::sync::Mutex::default()).collect();
        let shared = Arc::new(Shared { clients, acquainted, state: Mutex::default(), closed: Notify::new() });
        let serve = |client: &ReadClient| {
            let shared = Arc::clone(&shared);
            ServedClient::new(Arc::clone(client), move || shared.close_idle())
        };
        let served = shared.clients.iter().map(serve).collect();
        Ok(Self { shared, served })
    }

    /// Lets the clients' threads end.
    pub(super) fn close(&self) {
        self.served.iter().for_each(ServedClient::close);
    }

    /// An idle reader that is already at the position.
    pub(super) fn resume(&self, partition: &TopicPartition, from: Offset) -> Option<PartitionReader> {
        let mut state = self.shared.lock();
        let fits = |reader: &Assigned| {
            reader.partition == *partition && reader.position == from && reader.fault.is_none()
        };
        let index = state.idle.iter().position(fits)?;
        // Others wait for a turn: this one has to wait, too.
        let turn = state.turns(partition, self.shared.clients.len()).try_acquire_owned().ok()?;
        let reader = state.idle.swap_remove(index);
        Some(PartitionReader { reader: Some(reader), shared: Arc::clone(&self.shared), _turn: turn })
    }

    /// Whether a reader of the partition is in use.
    pub(super) fn has_busy(&self, partition: &TopicPartition) -> bool {
        let state = self.shared.lock();
        let is_parked = |client| state.idle.iter().any(|l| l.client == client && l.partition == *partition);
        (0..self.shared.clients.len())
            .any(|client| state.open.contains(&(client, partition.clone())) && !is_parked(client))
    }

    /// Opens a reader at a position of a partition that ends at `end`; waits while every client's reader of the partition
    /// is in use.
    pub(super) async fn position(
        &self,
        partition: &TopicPartition,
        from: Offset,
        end: Offset,
    ) -> Result<PartitionReader, KafkaError> {
        let turns = self.shared.lock().turns(partition, self.shared.clients.len());
        let turn = turns.acquire_owned().await.map_err(|_| KafkaError::Canceled)?;
        loop {
            let closed = self.shared.closed.notified();
            if let Some(slot) = self.shared.take_slot(partition) {
                return PartitionReader::open(slot, from..end, turn).await;
            }
            // An idle reader is about to be closed.
            closed.await;
        }
    }
}

impl Drop for PartitionReaders {
    fn drop(&mut self) {
        self.close();
        self.served.clear();
        self.shared.lock().idle.clear();
    }
}

impl State {
    fn turns(&mut self, partition: &TopicPartition, clients: usize) -> Arc<Semaphore> {
        if let Some(turns) = self.turns.get(partition) {
            return Arc::clone(turns);
        }
        let turns = Arc::new(Semaphore::new(clients));
        self.turns.insert(partition.clone(), Arc::clone(&turns));
        turns
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot on a client that has no reader of the partition, or whose reader has been idle longest.
    fn take_slot(self: &Arc<Self>, partition: &TopicPartition) -> Option<Slot> {
        let slot = |client| Slot { shared: Arc::clone(self), taken: Some((client, partition.clone())) };
        let mut state = self.lock();
        let free = (0..self.clients.len()).find(|client| !state.open.contains(&(*client, partition.clone())));
        if let Some(client) = free {
            state.open.insert((client, partition.clone()));
            return Some(slot(client));
        }
        let idle = state.idle.iter().enumerate().filter(|(_, reader)| reader.partition == *partition);
        let (index, _) = idle.min_by_key(|(_, reader)| reader.since)?;
        let reader = state.idle.swap_remove(index);
        // The partition stays in `open`: the new reader is opened on the same client.
        self.unassign(reader.client, &reader.partition);
        Some(slot(reader.client))
    }

    /// Lets a client learn a topic's leaders. librdkafka asks for those of a new topic once a second.
    async fn acquaint(&self, client: usize, reader: &ReadClient, topic: &Arc<str>) {
        let Some(acquainted) = self.acquainted.get(client) else { return };
        let mut acquainted = acquainted.lock().await;
        if acquainted.contains(topic) {
            return;
        }
        let (reader, asked) = (Arc::clone(reader), Arc::clone(topic));
        let ask = move || reader.fetch_metadata(Some(&asked), LEADERS_LIMIT);
        match tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled)) {
            Ok(found) if is_led(&found, topic) => drop(acquainted.insert(Arc::clone(topic))),
            // The topic may be new. If it is missing, the reader says so.
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, %topic, "a client does not know a topic's leaders yet"),
        }
    }

    /// A partition's place on a client is free.
    fn free(&self, client: usize, partition: TopicPartition) {
        self.lock().open.remove(&(client, partition));
        self.closed.notify_waiters();
    }

    fn unassign(&self, client: usize, partition: &TopicPartition) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&partition.topic, partition.number);
        if let Some(Err(error)) = self.clients.get(client).map(|client| client.incremental_unassign(&list)) {
            tracing::debug!(%error, topic = %partition.topic, "a reader could not be closed");
        }
    }

    fn close(&self, reader: Assigned) {
        let client = reader.client;
        let partition = reader.partition.clone();
        drop(reader);
        self.unassign(client, &partition);
        self.free(client, partition);
    }

    fn close_idle(&self) {
        let idle: Vec<Assigned> =
            self.lock().idle.extract_if(.., |reader| reader.since.elapsed() > IDLE_LIMIT).collect();
        idle.into_iter().for_each(|reader| self.close(reader));
    }
}

/// A partition's place on a client, until a reader takes it.
struct Slot {
    shared: Arc<Shared>,
    taken: Option<(usize, TopicPartition)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((client, partition)) = self.taken.take() {
            self.shared.free(client, partition);
        }
    }
}

/// A reader in use. Drop closes it, unless a reading has put it back among the idle ones.
pub(super) struct PartitionReader {
    reader: Option<Assigned>,
    shared: Arc<Shared>,
    /// Given back after the reader.
    _turn: OwnedSemaphorePermit,
}

impl PartitionReader {
    async fn open(
        mut slot: Slot,
        Range { start: from, end }: Range<Offset>,
        turn: OwnedSemaphorePermit,
    ) -> Result<Self, KafkaError> {
        let shared = Arc::clone(&slot.shared);
        let (client, partition) = slot.taken.clone().ok_or(KafkaError::Canceled)?;
        let reader = shared.clients.get(client).ok_or(KafkaError::Canceled)?;
        // Split first: no message of the partition may come through the common queue.
        let queue = reader.split_partition_queue(&partition.topic, partition.number);
        let mut queue = queue.ok_or(KafkaError::Canceled)?;
        let nonempty = Arc::new(Notify::new());
        let notify = Arc::clone(&nonempty);
        queue.set_nonempty_callback(move || notify.notify_one());
        shared.acquaint(client, reader, &partition.topic).await;
        let mut list = TopicPartitionList::new();
        let at = KafkaOffset::Offset(i64::try_from(from.get()).unwrap_or(i64::MAX));
        list.add_partition_offset(&partition.topic, partition.number, at)?;
        reader.incremental_assign(&list)?;
        slot.taken = None;
        let reader = Assigned {
            client,
            partition,
            queue,
            nonempty,
            position: from,
            end,
            has_ended: false,
            is_alive: false,
            fault: None,
            since: Instant::now(),
        };
        Ok(Self { reader: Some(reader), shared, _turn: turn })
    }

    /// Reads about `max_bytes` of records; waits for the first until the deadline, or with `to_end` until the end. A reader
    /// to the end is closed once it has passed the end that was known when it was opened: its client would ask the broker for more,
    /// and another position has to take another client.
    pub(super) async fn collect(
        mut self,
        max_bytes: usize,
        deadline: tokio::time::Instant,
        to_end: bool,
    ) -> Result<Collected, KafkaError> {
        loop {
            let Some(reader) = self.reader.as_mut() else { return Ok(Collected::Nothing) };
            let records = reader.drain(max_bytes);
            let next = reader.position;
            if !records.is_empty() {
                if !to_end || next < reader.end {
                    self.leave();
                }
                return Ok(Collected::Records(Batch { records, next }));
            }
            if let Some(fault) = reader.fault.take() {
                return Err(fault);
            }
            if to_end && reader.has_ended {
                return Ok(Collected::End);
            }
            let nonempty = Arc::clone(&reader.nonempty);
            if tokio::time::timeout_at(deadline, nonempty.notified()).await.is_err() {
                // The client may have lost a reader that never got anything: the next reading opens another.
                if !to_end && reader.is_alive {
                    self.leave();
                }
                return Ok(Collected::Nothing);
            }
        }
    }

    fn leave(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            reader.since = Instant::now();
            self.shared.lock().idle.push(reader);
        }
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.shared.close(reader);
        }
    }
}

impl Assigned {
    /// Takes records from the queue, up to a size, an end or a fault.
    fn drain(&mut self, max_bytes: usize) -> Vec<Stored> {
        let mut records = Vec::new();
        let mut size = 0;
        while size < max_bytes.max(1) {
            match self.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    let record = stored(&message);
                    (self.has_ended, self.is_alive) = (false, true);
                    self.position = record.offset.next();
                    size += record.record.size().max(1);
                    records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => (self.has_ended, self.is_alive) = (true, true),
                Some(Err(error)) => {
                    self.fault = Some(error);
                    break;
                }
                None => break,
            }
        }
        records
    }
}

/// Whether all partitions of a topic have a leader.
fn is_led(metadata: &Metadata, topic: &str) -> bool {
    metadata.topics().iter().any(|found| {
        let partitions = found.partitions();
        let has_leader = |one: &MetadataPartition| one.leader() >= 0 && one.error().is_none();
        found.name() == topic && !partitions.is_empty() && partitions.iter().all(has_leader)
    })
}

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map(|headers| {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned().into(), header.value.unwrap_or_default().to_vec().into())
        };
        headers.iter().map(owned).collect()
    });
    Stored {
        offset: offset(message.offset()),
        logged_at: Millis::new(message.timestamp().to_millis().unwrap_or(0)),
        record: Record {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        },
    }
}

//! Reading many partitions at many positions over few clients.
//!
//! Owns the lanes: a lane is one partition on one reader, with a queue and a position of its own. A reader has each
//! partition once; so many readers, so many positions in a partition at once. Lanes that nobody uses are closed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use schemas::ids::Offset;
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::Notify;

use super::client::{Clients, Context, Reader};
use super::offset;
use crate::log::{Batch, Stored, TopicError};

/// A lane that nobody has read for so long is closed: what it fetched ahead is memory.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How often a reader's own events are served; messages come by the lanes' queues.
const SERVE_EVERY: Duration = Duration::from_millis(100);

/// A partition by its name on the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
}

/// What a lane had.
pub(super) enum Collected {
    /// At least one record.
    Records(Batch),
    /// No record, and the end was reached.
    End,
    /// Nothing until the deadline.
    Nothing,
}

struct Parked {
    reader: usize,
    place: Place,
    queue: PartitionQueue<Context>,
    nonempty: Arc<Notify>,
    position: Offset,
    has_ended: bool,
    /// Whether anything came since it was opened: a record, or the word that there is none.
    is_alive: bool,
    fault: Option<KafkaError>,
    since: Instant,
}

#[derive(Default)]
struct State {
    parked: Vec<Parked>,
    /// Reader and place of every lane, parked or in use.
    open: HashSet<(usize, Place)>,
}

struct Shared {
    readers: Vec<Reader>,
    state: Mutex<State>,
    freed: Notify,
    is_closing: AtomicBool,
}

/// The lanes of some readers.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    asker: Reader,
    servers: Vec<JoinHandle<()>>,
}

impl Lanes {
    pub(super) fn new(clients: &Clients, count: usize, wait: Duration) -> Result<Self, TopicError> {
        let asker = clients.reader(wait)?;
        let mut readers = vec![Arc::clone(&asker)];
        for _ in 1..count {
            readers.push(clients.reader(wait)?);
        }
        let shared = Arc::new(Shared {
            readers,
            state: Mutex::default(),
            freed: Notify::new(),
            is_closing: AtomicBool::new(false),
        });
        let serve = |reader: &Reader| {
            let (reader, shared) = (Arc::clone(reader), Arc::clone(&shared));
            std::thread::spawn(move || shared.serve(&reader))
        };
        let servers = shared.readers.iter().map(serve).collect();
        Ok(Self { shared, asker, servers })
    }

    /// A reader for questions.
    pub(super) fn reader(&self) -> Reader {
        Arc::clone(&self.asker)
    }

    /// The lane that stands at a position already.
    pub(super) fn resume(&self, place: &Place, from: Offset) -> Option<Lane> {
        let mut state = self.shared.lock();
        let fits = |lane: &Parked| lane.place == *place && lane.position == from && lane.fault.is_none();
        let index = state.parked.iter().position(fits)?;
        let lane = state.parked.swap_remove(index);
        Some(Lane { lane: Some(lane), shared: Arc::clone(&self.shared) })
    }

    /// Whether somebody reads the partition right now.
    pub(super) fn has_busy(&self, place: &Place) -> bool {
        let state = self.shared.lock();
        let is_parked = |reader| state.parked.iter().any(|l| l.reader == reader && l.place == *place);
        (0..self.shared.readers.len())
            .any(|reader| state.open.contains(&(reader, place.clone())) && !is_parked(reader))
    }

    /// A lane at a position; waits while every reader has the partition at work.
    pub(super) async fn position(&self, place: &Place, from: Offset) -> Result<Lane, KafkaError> {
        loop {
            let freed = self.shared.freed.notified();
            if let Some(reader) = self.shared.take_reader(place) {
                return Lane::open(&self.shared, reader, place, from);
            }
            freed.await;
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            drop(server.join());
        }
        self.shared.lock().parked.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader that has no lane of the partition, or whose lane has been parked longest.
    fn take_reader(&self, place: &Place) -> Option<usize> {
        let mut state = self.lock();
        let free = (0..self.readers.len()).find(|reader| !state.open.contains(&(*reader, place.clone())));
        if let Some(reader) = free {
            state.open.insert((reader, place.clone()));
            return Some(reader);
        }
        let parked = state.parked.iter().enumerate().filter(|(_, lane)| lane.place == *place);
        let (index, _) = parked.min_by_key(|(_, lane)| lane.since)?;
        let lane = state.parked.swap_remove(index);
        // Its place stays taken: the new lane is opened on the same reader.
        self.unassign(lane.reader, &lane.place);
        Some(lane.reader)
    }

    fn unassign(&self, reader: usize, place: &Place) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&place.topic, place.partition);
        if let Some(Err(error)) = self.readers.get(reader).map(|reader| reader.incremental_unassign(&list)) {
            tracing::debug!(%error, topic = %place.topic, "a lane could not be closed");
        }
    }

    fn close(&self, lane: Parked) {
        let (reader, place) = (lane.reader, lane.place.clone());
        drop(lane);
        self.unassign(reader, &place);
        self.lock().open.remove(&(reader, place));
        self.freed.notify_waiters();
    }

    fn serve(&self, reader: &Reader) {
        while !self.is_closing.load(Ordering::Relaxed) {
            match reader.poll(SERVE_EVERY) {
                Some(Err(error)) => tracing::warn!(%error, "a Kafka reader reports"),
                Some(Ok(message)) => tracing::error!(topic = message.topic(), "a message outside its lane"),
                None => {}
            }
            let idle: Vec<Parked> =
                self.lock().parked.extract_if(.., |lane| lane.since.elapsed() > IDLE_LIMIT).collect();
            idle.into_iter().for_each(|lane| self.close(lane));
        }
    }
}

/// A lane in use; it is closed when dropped before it was read to a known position.
pub(super) struct Lane {
    lane: Option<Parked>,
    shared: Arc<Shared>,
}

impl Lane {
    fn open(shared: &Arc<Shared>, reader: usize, place: &Place, from: Offset) -> Result<Self, KafkaError> {
        let opened = shared.readers.get(reader).ok_or(KafkaError::Canceled).and_then(|client| {
            // Split first: nothing of it may come by the common queue.
            let queue = client.split_partition_queue(&place.topic, place.partition);
            let mut queue = queue.ok_or(KafkaError::Canceled)?;
            let nonempty = Arc::new(Notify::new());
            let notify = Arc::clone(&nonempty);
            queue.set_nonempty_callback(move || notify.notify_one());
            let mut list = TopicPartitionList::new();
            let at = KafkaOffset::Offset(i64::try_from(from.get()).unwrap_or(i64::MAX));
            list.add_partition_offset(&place.topic, place.partition, at)?;
            client.incremental_assign(&list)?;
            Ok((queue, nonempty))
        });
        let (queue, nonempty) = opened.inspect_err(|_| {
            shared.lock().open.remove(&(reader, place.clone()));
            shared.freed.notify_waiters();
        })?;
        let (place, since) = (place.clone(), Instant::now());
        let (position, has_ended, is_alive, fault) = (from, false, false, None);
        let lane = Parked { reader, place, queue, nonempty, position, has_ended, is_alive, fault, since };
        Ok(Self { lane: Some(lane), shared: Arc::clone(shared) })
    }

    /// About `max_bytes` of records; waits for the first until the deadline, or `to_end` until there are none.
    pub(super) async fn collect(
        mut self,
        max_bytes: usize,
        deadline: tokio::time::Instant,
        to_end: bool,
    ) -> Result<Collected, KafkaError> {
        loop {
            let Some(lane) = self.lane.as_mut() else { return Ok(Collected::Nothing) };
            let records = lane.drain(max_bytes);
            let next = lane.position;
            if !records.is_empty() {
                self.park();
                return Ok(Collected::Records(Batch { records, next }));
            }
            if let Some(fault) = lane.fault.take() {
                return Err(fault);
            }
            if to_end && lane.has_ended {
                return Ok(Collected::End);
            }
            let nonempty = Arc::clone(&lane.nonempty);
            if tokio::time::timeout_at(deadline, nonempty.notified()).await.is_err() {
                // One that has never said a word may have been lost by its client: the next reading opens another.
                if !to_end && lane.is_alive {
                    self.park();
                }
                return Ok(Collected::Nothing);
            }
        }
    }

    fn park(&mut self) {
        if let Some(mut lane) = self.lane.take() {
            lane.since = Instant::now();
            self.shared.lock().parked.push(lane);
            self.shared.freed.notify_waiters();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.shared.close(lane);
        }
    }
}

impl Parked {
    /// What the queue holds, up to a size, an end or a fault.
    fn drain(&mut self, max_bytes: usize) -> Vec<Stored> {
        let (mut records, mut size) = (Vec::new(), 0);
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

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map(|headers| {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
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

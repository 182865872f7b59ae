//! The log on Apache Kafka, version 4.0 or later.
//!
//! Owns the clients and their number: one producer, one for administration, a fixed number of readers, and one for each
//! fenced writer; never one for a partition or a consumer. There are no consumer groups: callers keep positions.

mod append;
mod client;
mod context;
mod deliveries;
mod partition_readers;
mod producer;
mod questions;
mod served;
mod topics;
mod writer;

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use platform::retry::Retry;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;

use super::{
    AppendError, Batch, Bounds, ClientVitals, FencedWriter, Log, ReadError, TopicError, TopicSpec,
    check_sizes,
};
use crate::kafka_options::KafkaOptions;
use append::Appender;
use client::{Admin, Clients, REQUEST_LIMIT};
use partition_readers::{Collected, PartitionReader, PartitionReaders, TopicPartition};
use questions::Questions;

/// Clients that read behind the tails: one partition is read at so many positions without seeking.
const CATCH_UP_READERS: usize = 3;
/// A broker's wait for records: short, so that an empty partition does not delay the client's other ones.
const CATCH_UP_WAIT: Duration = Duration::from_millis(10);
/// The longest wait of a partition that is added to the tails: the fetch that is under way ends first.
const TAIL_WAIT: Duration = Duration::from_millis(100);

/// How long a broker may not know a new topic, or a partition whose leader moves. A client that has heard of a topic as missing
/// believes so for up to three seconds more (`topic.metadata.propagation.max.ms`), and may hear it twice.
const SETTLING: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LONGEST_RETRY: Duration = Duration::from_millis(500);

/// A log on a Kafka cluster.
pub struct KafkaLog {
    prefix: String,
    clients: Clients,
    admin: Admin,
    appender: Appender,
    tails: PartitionReaders,
    catch_up: PartitionReaders,
    questions: Questions,
    /// Topics that were made or checked, with their partitions. No other topic is used: the broker might make it.
    known: RwLock<HashMap<String, u32>>,
}

impl KafkaLog {
    /// Makes the clients; only the first use finds out whether the cluster can be reached.
    pub fn connect(options: &KafkaOptions) -> Result<Self, TopicError> {
        let clients = Clients::new(options);
        Ok(Self {
            prefix: options.prefix.clone(),
            appender: Appender::new(&clients)?,
            tails: PartitionReaders::new(&clients, 1, TAIL_WAIT)?,
            catch_up: PartitionReaders::new(&clients, CATCH_UP_READERS, CATCH_UP_WAIT)?,
            questions: Questions::new(&clients)?,
            admin: clients.admin()?,
            clients,
            known: RwLock::default(),
        })
    }

    /// The topic's name on the cluster, if it is one of ours.
    fn partition(&self, topic: &str, partition: Partition) -> Result<TopicPartition, TopicError> {
        let unknown = || TopicError::Unknown { topic: topic.to_owned(), partition };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let partitions = known.get(topic).copied().ok_or_else(unknown)?;
        if partition.get() >= partitions {
            return Err(unknown());
        }
        TopicPartition::new(&self.prefix, topic, partition).ok_or_else(unknown)
    }

    /// The partition's end; an offset outside of its bounds is refused.
    async fn end(&self, partition: &TopicPartition, from: Offset) -> Result<Offset, ReadError> {
        let bounds = self.questions.bounds(partition).await?;
        if from < bounds.first {
            return Err(ReadError::BeforeFirst { wanted: from, first: bounds.first });
        }
        if from > bounds.next {
            return Err(ReadError::BeyondEnd { wanted: from, next: bounds.next });
        }
        Ok(bounds.next)
    }

    /// A reader at an offset within a partition whose end was asked for before.
    async fn open(
        readers: &PartitionReaders,
        partition: &TopicPartition,
        from: Offset,
        end: Offset,
    ) -> Result<PartitionReader, ReadError> {
        let reader = readers.position(partition, from, end).await;
        Ok(reader.map_err(|error| topic_error(partition, &error))?)
    }

    /// Reads the present records. It asks again where a broker does not know the partition yet: another one has just
    /// given its bounds. Where it was removed, the bounds say so at the next try.
    async fn read_now(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Batch, ReadError> {
        let mut retry = Retry::new(FIRST_RETRY, LONGEST_RETRY);
        let until = tokio::time::Instant::now() + SETTLING;
        loop {
            match self.read_once(partition, from, max_bytes).await? {
                Ok(batch) => return Ok(batch),
                Err(error) if is_settling(&error) && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(retry.next_wait()).await;
                }
                Err(error) => return Err(topic_error(partition, &error).into()),
            }
        }
    }

    /// Reads the present records once; the inner error is the reader's own.
    async fn read_once(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Result<Batch, KafkaError>, ReadError> {
        let deadline = || tokio::time::Instant::now() + REQUEST_LIMIT;
        if let Some(reader) = self.catch_up.resume(partition, from) {
            match reader.collect(max_bytes, deadline(), true).await {
                Ok(Collected::Records(batch)) => return Ok(Ok(batch)),
                // Its end may be that of a new leader that lags. Whether there is a gap says one that is opened behind the bounds.
                Ok(Collected::End | Collected::Nothing) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let end = self.end(partition, from).await?;
        if from == end {
            return Ok(Ok(gap(end)));
        }
        let reader = Self::open(&self.catch_up, partition, from, end).await?;
        match reader.collect(max_bytes, deadline(), true).await {
            Ok(Collected::Records(batch)) => Ok(Ok(batch)),
            // No record came: everything before the end is a gap.
            Ok(Collected::End) => Ok(Ok(gap(end))),
            Ok(Collected::Nothing) => Err(late(partition).into()),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Reads the present records, or those that come within `wait`.
    async fn read_tail(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Batch, ReadError> {
        let deadline = tokio::time::Instant::now() + wait;
        let reader = match self.tails.resume(partition, from) {
            Some(reader) => reader,
            // A second tail of one partition uses the catch-up readers.
            None => {
                let readers = if self.tails.has_busy(partition) { &self.catch_up } else { &self.tails };
                Self::open(readers, partition, from, self.end(partition, from).await?).await?
            }
        };
        match reader.collect(max_bytes, deadline, false).await {
            Ok(Collected::Records(batch)) => Ok(batch),
            Ok(Collected::End | Collected::Nothing) => Ok(gap(from)),
            // The partition may be new, or removed. Its bounds tell which.
            Err(error) if may_be_new(&error, from) => {
                self.questions.bounds(partition).await?;
                Ok(gap(from))
            }
            Err(error) => Err(topic_error(partition, &error).into()),
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // All threads end at the same time; each part joins its own.
        self.appender.close();
        self.tails.close();
        self.catch_up.close();
        self.questions.close();
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn system(&self) -> &'static str {
        "kafka"
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, TopicError> {
        let name = format!("{}{}", self.prefix, spec.name);
        let cluster = topics::Cluster {
            admin: &self.admin,
            reader: self.questions.client(),
            replication: self.clients.options().replication,
            min_insync: self.clients.options().min_insync(),
        };
        let made = cluster.ensure(&name, spec).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(spec.name.clone(), spec.partitions);
        Ok(made)
    }

    async fn append(
        &self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, AppendError> {
        check_sizes(&records)?;
        let partition = self.partition(topic, partition).map_err(|e| AppendError::Refused(e.to_string()))?;
        self.appender.append(&partition, &records).await
    }

    async fn read(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Batch, ReadError> {
        let partition = self.partition(topic, partition)?;
        match wait.is_zero() {
            true => self.read_now(&partition, from, max_bytes).await,
            false => self.read_tail(&partition, from, max_bytes, wait).await,
        }
    }

    async fn bounds(&self, topic: &str, partition: Partition) -> Result<Bounds, TopicError> {
        self.questions.bounds(&self.partition(topic, partition)?).await
    }

    async fn offset_at(&self, topic: &str, partition: Partition, at: Millis) -> Result<Offset, TopicError> {
        let partition = self.partition(topic, partition)?;
        let found = self.questions.ask(&partition, move |reader, partition| {
            let mut times = TopicPartitionList::new();
            times.add_partition_offset(&partition.topic, partition.number, KafkaOffset::Offset(at.get()))?;
            let found = reader.offsets_for_times(times, REQUEST_LIMIT)?;
            let element = found.find_partition(&partition.topic, partition.number);
            element.map(|element| element.error().map(|()| element.offset())).transpose()
        });
        match found.await? {
            Some(KafkaOffset::Offset(found)) => Ok(offset(found)),
            _ => Ok(self.questions.bounds(&partition).await?.next),
        }
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: Partition,
        before: Offset,
    ) -> Result<(), TopicError> {
        topics::delete_records(&self.admin, &self.partition(topic, partition)?, before).await
    }

    fn clients(&self) -> Vec<ClientVitals> {
        self.clients.vitals()
    }

    async fn open_writer(&self, id: &str) -> Result<Box<dyn FencedWriter>, TopicError> {
        let id = format!("{}{id}", self.prefix);
        writer::open(&self.clients, self.questions.client(), &id, &self.prefix).await
    }
}

/// Whether an error passes by itself, because a topic is new or its leader moves.
fn is_settling(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            LeaderNotAvailable
                | NotLeaderForPartition
                | UnknownPartition
                | UnknownTopic
                | UnknownTopicOrPartition
        )
    )
}

/// Whether a tail's error may only mean that a broker does not know a new topic yet. A reader that is past the first
/// record has seen the topic: then the error says that it was deleted, and must reach the caller.
fn may_be_new(error: &KafkaError, from: Offset) -> bool {
    from == Offset::new(0) && is_settling(error)
}

/// No record, up to an offset.
const fn gap(next: Offset) -> Batch {
    Batch { records: Vec::new(), next }
}

/// Offsets in Kafka's answers are never negative.
fn offset(number: i64) -> Offset {
    Offset::new(u64::try_from(number).unwrap_or(0))
}

fn late(partition: &TopicPartition) -> TopicError {
    let limit = REQUEST_LIMIT.as_secs();
    TopicError::Unavailable(format!(
        "no broker answered for partition {} of topic {} within {limit} s",
        partition.id, partition.topic
    ))
}

fn topic_error(partition: &TopicPartition, error: &KafkaError) -> TopicError {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    match error.rdkafka_error_code() {
        Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition) => {
            TopicError::Unknown { topic: partition.topic.to_string(), partition: partition.id }
        }
        _ => TopicError::Unavailable(format!("{}, partition {}: {error}", partition.topic, partition.id)),
    }
}

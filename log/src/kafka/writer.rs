//! Fenced atomic batches as Kafka's transactions.
//!
//! Owns one transactional id: opening it again, here or elsewhere, fences this writer. A writer whose transaction
//! failed is done: the next writer of the id settles the transaction's outcome.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use platform::retry::Retry;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;

use super::append::hand_over;
use super::client::{Clients, REQUEST_LIMIT, ReadClient};
use super::context::Context;
use super::offset;
use super::partition_readers::TopicPartition;
use super::producer::Producer;
use crate::{AppendError, CommitError, Committed, FencedWriter, TopicError, check_sizes};

/// Fencing waits for the earlier writer's transaction, which may have to be undone.
const FENCE_LIMIT: Duration = Duration::from_secs(30);
/// A commit is tried again within this; afterwards only a new writer can find out its outcome.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// The first and the longest wait between two checks whether a commit is visible.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

struct KafkaWriter {
    client: Client,
    reader: ReadClient,
    prefix: String,
    is_done: bool,
}

/// Opens a writer; fences every earlier writer of the id.
pub(super) async fn open(
    clients: &Clients,
    reader: ReadClient,
    id: &str,
    prefix: &str,
) -> Result<Box<dyn FencedWriter>, TopicError> {
    let client = Client(Some(clients.transactional(id)?));
    let unavailable =
        |why: String| TopicError::Unavailable(format!("transactional id {id} cannot be had: {why}"));
    let producer = client.get().map_err(|error| unavailable(error.to_string()))?;
    on_a_thread(producer, |producer| producer.init_transactions(FENCE_LIMIT))
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    Ok(Box::new(KafkaWriter { client, reader, prefix: prefix.to_owned(), is_done: false }))
}

/// Runs a call that blocks its thread: librdkafka has no others.
async fn on_a_thread(
    producer: &Producer,
    call: impl FnOnce(&BaseProducer<Context>) -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), KafkaError> {
    let producer = Arc::clone(producer.client());
    tokio::task::spawn_blocking(move || call(&producer)).await.unwrap_or(Err(KafkaError::Canceled))
}

/// A producer that is dropped on a thread of its own, because the drop blocks for a while.
struct Client(Option<Producer>);

impl Client {
    fn get(&self) -> Result<&Producer, CommitError> {
        self.0.as_ref().ok_or_else(|| CommitError::Failed("the writer is closed".to_owned()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let (Some(producer), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(producer)));
        }
    }
}

impl KafkaWriter {
    async fn transact(
        &self,
        partition: &TopicPartition,
        records: &[Record],
    ) -> Result<Committed, CommitError> {
        let producer = self.client.get()?;
        producer.client().begin_transaction().map_err(|error| self.verdict(&error.to_string(), &error))?;
        let handed = hand_over(producer, partition, records).await.and_then(|(first, last)| {
            let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
            match last.get() - first.get() + 1 == count {
                true => Ok(last),
                false => Err(AppendError::Refused("another writer's records stand between ours".to_owned())),
            }
        });
        match handed {
            Ok(last) => {
                // All records are acknowledged, so the commit need not flush any.
                let commit = on_a_thread(producer, |p| p.commit_transaction(COMMIT_LIMIT)).await;
                commit.map_err(|error| self.verdict(&error.to_string(), &error))?;
                self.until_visible(partition, last).await?;
                // The marker of the transaction's end has an offset, too.
                Ok(Committed { last, next: last.next().next() })
            }
            Err(AppendError::TooLarge { .. }) => Err(CommitError::Failed("a record is too large".to_owned())),
            Err(AppendError::Refused(why) | AppendError::Unknown(why)) => {
                let abort = on_a_thread(producer, |p| p.abort_transaction(COMMIT_LIMIT)).await;
                Err(self.verdict(&why, &abort.err().unwrap_or(KafkaError::Canceled)))
            }
        }
    }

    /// Waits until readers see the commit. It is acknowledged before its markers are written, but a caller that learns
    /// of the commit must find its records.
    async fn until_visible(&self, partition: &TopicPartition, last: Offset) -> Result<(), CommitError> {
        let mut retry = Retry::new(FIRST_LOOK, LAST_LOOK);
        let deadline = tokio::time::Instant::now() + COMMIT_LIMIT;
        loop {
            let reader = Arc::clone(&self.reader);
            let partition = partition.clone();
            let ask = move || reader.fetch_watermarks(&partition.topic, partition.number, REQUEST_LIMIT);
            let fault = match tokio::task::spawn_blocking(ask).await {
                Ok(Ok((_, end))) if offset(end) > last => return Ok(()),
                Ok(Ok(_)) => "its markers are not written".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() > deadline {
                return Err(CommitError::Failed(format!("the commit is not visible: {fault}")));
            }
            tokio::time::sleep(retry.next_wait()).await;
        }
    }

    fn verdict(&self, why: &str, error: &KafkaError) -> CommitError {
        use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
        let is_fence = |code| matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced);
        let fatal = self.client.get().ok().and_then(|producer| producer.fatal_error());
        let fatal = fatal.map(|(code, _)| code);
        match error.rdkafka_error_code().into_iter().chain(fatal).any(is_fence) {
            true => CommitError::Fenced,
            false => CommitError::Failed(why.to_owned()),
        }
    }
}

#[async_trait]
impl FencedWriter for KafkaWriter {
    async fn commit(
        &mut self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Committed, CommitError> {
        if self.is_done {
            return Err(CommitError::Failed("the writer failed before; open it again".to_owned()));
        }
        check_sizes(&records).map_err(|e| CommitError::Failed(e.to_string()))?;
        let unknown = || CommitError::Failed(format!("Kafka has no partition {partition}"));
        let partition = TopicPartition::new(&self.prefix, topic, partition).ok_or_else(unknown)?;
        // Stays set when this future is dropped half-way.
        self.is_done = true;
        let outcome = self.transact(&partition, &records).await;
        self.is_done = outcome.is_err();
        outcome
    }
}

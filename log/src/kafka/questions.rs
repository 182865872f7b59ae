//! Questions to brokers. Each of them blocks a thread.
//!
//! Owns the client that is asked. It reads nothing: a broker answers a connection's requests one after the other, so that
//! a question would wait behind a fetch. Owns how many are asked at once, their repeats, and the answer that all share who
//! ask for a partition's bounds at the same time: when a router ends, its thousand streams ask another one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::retry::Retry;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use tokio::sync::Semaphore;

use super::client::{Clients, REQUEST_LIMIT, ReadClient};
use super::partition_readers::TopicPartition;
use super::served::ServedClient;
use super::{FIRST_RETRY, LONGEST_RETRY, SETTLING, is_settling, offset, topic_error};
use crate::{Bounds, TopicError};

/// Questions at once.
const AT_ONCE: usize = 8;

/// A partition's bounds, as they were last asked for.
#[derive(Default)]
struct Asked {
    /// How often the question was asked.
    times: AtomicU64,
    /// Which question was answered last, and how. One is under way at a time.
    answer: tokio::sync::Mutex<Option<(u64, Result<Bounds, TopicError>)>>,
}

pub(super) struct Questions {
    client: ServedClient,
    turns: Arc<Semaphore>,
    /// Of each partition that was asked for; no other than known topics' are.
    bounds: Mutex<HashMap<TopicPartition, Arc<Asked>>>,
}

impl Questions {
    pub(super) fn new(cluster: &Clients) -> Result<Self, TopicError> {
        let client = ServedClient::new(cluster.read_client(Duration::ZERO)?, || {});
        Ok(Self { client, turns: Arc::new(Semaphore::new(AT_ONCE)), bounds: Mutex::default() })
    }

    /// The client that is asked.
    pub(super) fn client(&self) -> ReadClient {
        Arc::clone(self.client.client())
    }

    /// Lets the client's thread end.
    pub(super) fn close(&self) {
        self.client.close();
    }

    /// Asks again where the topic is new or its leader moves.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        partition: &TopicPartition,
        question: impl Fn(&ReadClient, &TopicPartition) -> Result<T, KafkaError> + Clone + Send + 'static,
    ) -> Result<T, TopicError> {
        let closed = || TopicError::Unavailable("the log is closed".to_owned());
        let mut retry = Retry::new(FIRST_RETRY, LONGEST_RETRY);
        let deadline = tokio::time::Instant::now() + SETTLING;
        loop {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| closed())?;
            let client = self.client();
            let asked = partition.clone();
            let question = question.clone();
            // Who asks may go away; the thread is blocked until the answer, and keeps the turn.
            let ask = move || {
                let _turn = turn;
                question(&client, &asked)
            };
            let answer = tokio::task::spawn_blocking(ask).await;
            match answer.map_err(|_| closed())? {
                Err(error) if is_settling(&error) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(retry.next_wait()).await;
                }
                answer => return answer.map_err(|error| topic_error(partition, &error)),
            }
        }
    }

    /// What a partition holds, at some time after this call began.
    pub(super) async fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, TopicError> {
        let asked = self.asked(partition);
        let before = asked.times.load(Ordering::SeqCst);
        let mut answer = asked.answer.lock().await;
        if let Some((number, shared)) = &*answer
            && *number > before
        {
            return shared.clone();
        }
        let number = asked.times.fetch_add(1, Ordering::SeqCst) + 1;
        let question = |client: &ReadClient, partition: &TopicPartition| {
            client.fetch_watermarks(&partition.topic, partition.number, REQUEST_LIMIT)
        };
        let found = self.ask(partition, question).await;
        let found = found.map(|(first, next)| Bounds { first: offset(first), next: offset(next) });
        *answer = Some((number, found.clone()));
        found
    }

    fn asked(&self, partition: &TopicPartition) -> Arc<Asked> {
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = bounds.get(partition) {
            return Arc::clone(asked);
        }
        Arc::clone(bounds.entry(partition.clone()).or_default())
    }
}

//! What a Kafka client reports: its errors, its vitals, and its acknowledgements.
//!
//! Owns the board of all clients' vitals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;

use super::deliveries::Deliveries;
use crate::ClientVitals;

pub(super) type Board = Arc<Mutex<BTreeMap<u64, ClientVitals>>>;

/// Takes a client's errors and statistics; drop removes its vitals.
#[derive(Debug)]
pub(super) struct Context {
    board: Board,
    number: Option<u64>,
}

pub(super) fn lock(board: &Board) -> MutexGuard<'_, BTreeMap<u64, ClientVitals>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// The context of a client that reports its vitals.
    pub(super) fn new(board: &Board, name: &str) -> Self {
        let mut all = lock(board);
        let number = all.keys().next_back().map_or(0, |last| last + 1);
        all.insert(number, ClientVitals { name: name.to_owned(), ..ClientVitals::default() });
        Self { board: Arc::clone(board), number: Some(number) }
    }

    /// The context of a client without vitals: no reader takes the administrator's reports.
    pub(super) fn silent(board: &Board) -> Self {
        Self { board: Arc::clone(board), number: None }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.board).remove(&number);
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is no error: the readers learn it from their queues.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, %reason, "a Kafka client reports");
        }
    }

    fn stats(&self, said: Statistics) {
        let slowest = said.brokers.values().filter_map(|broker| broker.rtt.as_ref()).map(|rtt| rtt.p99).max();
        let is_up = |broker: &&rdkafka::statistics::Broker| broker.nodeid >= 0 && broker.state == "UP";
        let mut all = lock(&self.board);
        if let Some(vitals) = self.number.and_then(|number| all.get_mut(&number)) {
            vitals.brokers_up =
                u64::try_from(said.brokers.values().filter(is_up).count()).unwrap_or(u64::MAX);
            vitals.queued = said.msg_cnt;
            vitals.round_trip = Duration::from_micros(u64::try_from(slowest.unwrap_or(0)).unwrap_or(0));
            vitals.timeouts = said.brokers.values().map(|broker| broker.req_timeouts).sum();
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Deliveries>;

    fn delivery(&self, result: &DeliveryResult<'_>, deliveries: Self::DeliveryOpaque) {
        deliveries.settle(result);
    }
}

//! Appending with the idempotent producer.
//!
//! Owns the outcome of an append: acknowledged by all in-sync replicas, nothing taken, or unknown. It replaces a
//! producer that failed for good.

use std::sync::{Arc, PoisonError, RwLock};

use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use schemas::ids::Offset;
use schemas::record::Record;

use super::client::Clients;
use super::deliveries::Deliveries;
use super::partition_readers::TopicPartition;
use super::producer::Producer;
use crate::{AppendError, TopicError};

pub(super) struct Appender {
    clients: Clients,
    producer: RwLock<Arc<Producer>>,
}

impl Appender {
    pub(super) fn new(clients: &Clients) -> Result<Self, TopicError> {
        let producer = RwLock::new(Arc::new(clients.producer()?));
        Ok(Self { clients: clients.clone(), producer })
    }

    /// Lets the producer's thread end.
    pub(super) fn close(&self) {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).close();
    }

    pub(super) async fn append(
        &self,
        partition: &TopicPartition,
        records: &[Record],
    ) -> Result<Offset, AppendError> {
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        let outcome = hand_over(&producer, partition, records).await.map(|(_, last)| last);
        if producer.fatal_error().is_some() {
            self.replace(&producer);
            // The last to drop it waits for its thread.
            drop(tokio::task::spawn_blocking(move || drop(producer)));
        }
        outcome
    }

    /// Replaces a producer that failed for good, unless that has happened already.
    fn replace(&self, failed: &Arc<Producer>) {
        let fault = failed.fatal_error().map(|(_, reason)| reason).unwrap_or_default();
        tracing::error!(%fault, "the producer failed for good; making another");
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, failed) {
            match self.clients.producer() {
                Ok(producer) => {
                    failed.close();
                    *current = Arc::new(producer);
                }
                // The next append tries again, because this producer still reports its failure.
                Err(error) => tracing::error!(%error, "no producer can be made"),
            }
        }
    }
}

/// Gives records to a producer in order and waits until all are acknowledged; returns the offsets of the first and the last
/// one.
pub(super) async fn hand_over(
    producer: &Producer,
    partition: &TopicPartition,
    records: &[Record],
) -> Result<(Offset, Offset), AppendError> {
    let deliveries = Arc::new(Deliveries::of(records.len()));
    for (taken, record) in records.iter().enumerate() {
        match send(producer, partition, record, &deliveries) {
            Ok(()) => {}
            Err(error) if taken == 0 => return Err(AppendError::Refused(error.to_string())),
            Err(error) => {
                deliveries.refuse(records.len() - taken, error.to_string());
                break;
            }
        }
    }
    deliveries.until_settled().await
}

fn send(
    producer: &Producer,
    partition: &TopicPartition,
    record: &Record,
    deliveries: &Arc<Deliveries>,
) -> Result<(), KafkaError> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: Some(value.as_ref()) });
    }
    let mut message: BaseRecord<'_, [u8], [u8], _> =
        BaseRecord::with_opaque_to(&partition.topic, Arc::clone(deliveries))
            .partition(partition.number)
            .headers(headers);
    if let Some(key) = &record.key {
        message = message.key(key);
    }
    if let Some(value) = &record.value {
        message = message.payload(value);
    }
    producer.client().send(message).map_err(|(error, _)| error)
}

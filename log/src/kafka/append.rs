//! Appending with the idempotent producer.
//!
//! Owns the outcome of an append: acknowledged by all in-sync replicas, nothing taken, or unknown. It replaces a
//! producer that failed for good.

use std::sync::{Arc, PoisonError, RwLock};

use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureRecord, Producer as _};
use schemas::ids::Offset;
use schemas::record::Record;

use super::client::{Clients, Producer};
use super::offset;
use super::partition_readers::TopicPartition;
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

    pub(super) async fn append(
        &self,
        partition: &TopicPartition,
        records: &[Record],
    ) -> Result<Offset, AppendError> {
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        let outcome = hand_over(&producer, partition, records).await;
        if producer.client().fatal_error().is_some() {
            self.replace(&producer);
        }
        outcome
    }

    /// Replaces a producer that failed for good, unless that has happened already.
    fn replace(&self, failed: &Arc<Producer>) {
        let fault = failed.client().fatal_error().map(|(_, reason)| reason).unwrap_or_default();
        tracing::error!(%fault, "the producer failed for good; making another");
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, failed) {
            match self.clients.producer() {
                Ok(producer) => *current = Arc::new(producer),
                // The next append tries again, because this producer still reports its failure.
                Err(error) => tracing::error!(%error, "no producer can be made"),
            }
        }
    }
}

/// Gives records to a producer in order and waits for each acknowledgement; returns the last record's offset.
pub(super) async fn hand_over(
    producer: &Producer,
    partition: &TopicPartition,
    records: &[Record],
) -> Result<Offset, AppendError> {
    let mut deliveries = Vec::with_capacity(records.len());
    let mut fault = None;
    for record in records {
        match send(producer, partition, record) {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) if deliveries.is_empty() => return Err(AppendError::Refused(error.to_string())),
            Err(error) => {
                fault = Some(error.to_string());
                break;
            }
        }
    }
    let mut last = None;
    for delivery in deliveries {
        match delivery.await {
            // For a repeat librdkafka knows that the broker took it, but not at which offset.
            Ok(Ok(delivered)) if delivered.offset < 0 => {
                fault = fault.or(Some("it was taken, but its offset is not known".to_owned()));
            }
            Ok(Ok(delivered)) => last = Some(offset(delivered.offset)),
            Ok(Err((error, _))) => fault = fault.or(Some(error.to_string())),
            Err(_) => fault = fault.or(Some("the producer was closed".to_owned())),
        }
    }
    match (fault, last) {
        (Some(fault), _) => Err(AppendError::Unknown(fault)),
        (None, Some(last)) => Ok(last),
        (None, None) => Err(AppendError::Refused("there is nothing to append".to_owned())),
    }
}

fn send(
    producer: &Producer,
    partition: &TopicPartition,
    record: &Record,
) -> Result<DeliveryFuture, KafkaError> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let mut message: FutureRecord<'_, [u8], [u8]> =
        FutureRecord::to(&partition.topic).partition(partition.number).headers(headers);
    if let Some(key) = &record.key {
        message = message.key(key);
    }
    if let Some(value) = &record.value {
        message = message.payload(value);
    }
    producer.send_result(message).map_err(|(error, _)| error)
}

//! The acknowledgements of the records that one call gives to a producer.
//!
//! Owns their count, and the call's outcome. librdkafka's thread settles them; the call waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::message::Message as _;
use rdkafka::producer::DeliveryResult;
use schemas::ids::Offset;
use tokio::sync::Notify;

use super::offset;
use crate::AppendError;

/// The records of one call that a producer has, until each is acknowledged or has failed.
#[derive(Debug)]
pub(super) struct Deliveries {
    outcome: Mutex<Outcome>,
    settled: Notify,
}

#[derive(Debug)]
struct Outcome {
    open: usize,
    /// The offsets of the first and the last record.
    offsets: Option<(Offset, Offset)>,
    fault: Option<String>,
}

impl Deliveries {
    pub(super) fn of(records: usize) -> Self {
        let outcome = Outcome { open: records, offsets: None, fault: None };
        Self { outcome: Mutex::new(outcome), settled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the result of one record, on librdkafka's thread.
    pub(super) fn settle(&self, result: &DeliveryResult<'_>) {
        let mut outcome = self.lock();
        match result {
            // For a repeat librdkafka knows that the broker took it, but not at which offset.
            Ok(delivered) if delivered.offset() < 0 => {
                outcome.fault.get_or_insert_with(|| "it was taken, but its offset is not known".to_owned());
            }
            Ok(delivered) => {
                let at = offset(delivered.offset());
                let (first, last) = outcome.offsets.unwrap_or((at, at));
                outcome.offsets = Some((first.min(at), last.max(at)));
            }
            Err((error, _)) => {
                outcome.fault.get_or_insert_with(|| error.to_string());
            }
        }
        outcome.open -= 1;
        if outcome.open == 0 {
            self.settled.notify_one();
        }
    }

    /// Records that the producer did not take.
    pub(super) fn refuse(&self, records: usize, fault: String) {
        let mut outcome = self.lock();
        outcome.open -= records;
        outcome.fault.get_or_insert(fault);
    }

    /// Waits until each is acknowledged or has failed; returns the offsets of the first and the last record.
    pub(super) async fn until_settled(&self) -> Result<(Offset, Offset), AppendError> {
        while self.lock().open > 0 {
            self.settled.notified().await;
        }
        let mut outcome = self.lock();
        match (outcome.fault.take(), outcome.offsets) {
            (Some(fault), _) => Err(AppendError::Unknown(fault)),
            (None, Some(offsets)) => Ok(offsets),
            (None, None) => Err(AppendError::Refused("there is nothing to append".to_owned())),
        }
    }
}

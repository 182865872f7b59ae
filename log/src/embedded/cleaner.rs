//! The cleaner thread: retention.
//!
//! Owns when a partition's oldest records go by their age. What a writer gives up goes at once, and not here.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use platform::segments::SegmentError;
use schemas::time::Millis;

use super::super::Cleanup;
use super::Topics;
use super::partition::{PartitionLog, expire};

/// Cleans from time to time until the log is gone.
pub(super) fn clean_until_stopped(topics: &Topics, every: Duration, stopped: &Receiver<()>) {
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let all: Vec<Arc<PartitionLog>> = topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .flat_map(|(_, partitions)| partitions.values().map(Arc::clone))
            .collect();
        for partition in all {
            if let Err(error) = clean(&partition, platform::clock::now()) {
                tracing::error!(%error, "a partition could not be cleaned");
            }
        }
    }
}

/// Removes records that the cleanup no longer keeps.
fn clean(partition: &PartitionLog, now: Millis) -> Result<(), SegmentError> {
    match partition.cleanup {
        Cleanup::KeepAll => Ok(()),
        Cleanup::Retention(time) => {
            expire(partition, now.plus(-i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
        }
    }
}

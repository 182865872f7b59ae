//! The writer thread: the only one that appends. It takes the waiting requests as one group and syncs each touched
//! partition once; readers see only synced records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use platform::segments::Frames;
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::stored;
use super::partition::{PartitionLog, sync_partition};

/// Requests in one group; this bounds the time until the group's sync.
const GROUP: usize = 256;

/// The newest token of each writer of atomic batches.
pub(super) type Tokens = Arc<Mutex<HashMap<String, u64>>>;

pub(super) struct Request {
    pub(super) partition: Arc<PartitionLog>,
    pub(super) records: Vec<Record>,
    /// An atomic batch: its writer and token.
    pub(super) fence: Option<(String, u64)>,
    pub(super) answer: oneshot::Sender<Result<u64, WriteFailure>>,
}

pub(super) enum WriteFailure {
    Fenced,
    Nothing(String),
    Unknown(String),
}

/// Writes until all senders are dropped; `newest` is the time of the newest record in all partitions.
pub(super) fn write_groups(
    tokens: &Tokens,
    mut requests: mpsc::Receiver<Request>,
    newest: Millis,
    fault: &watch::Sender<Option<String>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    let mut logged_at = newest;
    let mut frames = Frames::default();
    while requests.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut touched: Vec<Arc<PartitionLog>> = Vec::new();
        let mut pending = Vec::with_capacity(group.len());
        // Times are found by binary search: they must not go back with the machine's clock.
        logged_at = logged_at.max(platform::clock::now());
        for request in group.drain(..) {
            match append_request(tokens, &request, logged_at, &mut frames) {
                Ok(last) => {
                    if !touched.iter().any(|p| Arc::ptr_eq(p, &request.partition)) {
                        touched.push(Arc::clone(&request.partition));
                    }
                    pending.push((request, last));
                }
                Err(failure) => drop(request.answer.send(Err(failure))),
            }
        }
        let failed: Vec<(Arc<PartitionLog>, String)> = touched
            .into_iter()
            .filter_map(|partition| sync_partition(&partition).err().map(|error| (partition, error)))
            .collect();
        if let Some((_, error)) = failed.first() {
            // After a failed sync only a restart finds out what is on the disk.
            fault.send_replace(Some(error.clone()));
        }
        for (request, last) in pending {
            let failure = failed.iter().find(|(p, _)| Arc::ptr_eq(p, &request.partition));
            let outcome = failure.map_or(Ok(last), |(_, error)| Err(WriteFailure::Unknown(error.clone())));
            // The caller may have stopped waiting; the records stay appended.
            drop(request.answer.send(outcome));
        }
    }
}

fn append_request(
    tokens: &Tokens,
    request: &Request,
    logged_at: Millis,
    frames: &mut Frames,
) -> Result<u64, WriteFailure> {
    if let Some((id, token)) = &request.fence
        && tokens.lock().unwrap_or_else(PoisonError::into_inner).get(id) != Some(token)
    {
        return Err(WriteFailure::Fenced);
    }
    let count = request.records.len();
    let is_atomic = request.fence.is_some();
    frames.clear();
    for (index, record) in request.records.iter().enumerate() {
        frames.push(|out| stored::encode(!is_atomic || index + 1 == count, logged_at, record, out));
    }
    let mut store = request.partition.store.write().unwrap_or_else(PoisonError::into_inner);
    let first = store.append_frames(frames).map_err(|error| WriteFailure::Nothing(error.to_string()))?;
    Ok((first + u64::try_from(count).unwrap_or(0)).saturating_sub(1))
}

//! The log on this machine's disk: one process holds it, and nothing is acknowledged before it is synced.
//!
//! Owns the folder (lock, topics, partitions) and the group commit: one writer thread takes what is waiting,
//! appends, syncs each touched partition once, and answers. Readers see only what is synced.

mod partition;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use platform::segments::disk::{Disk, RealDisk};
use platform::segments::{SegmentError, checked_file};
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::partition::{PartitionLog, expire, open_partitions, read_now, sync_partition};
use super::{
    AppendError, Batch, Bounds, Cleanup, CommitError, FencedWriter, Log, ReadError, TopicError, TopicSpec,
    check_sizes, stored,
};

const TOPIC_KIND: &[u8; 4] = b"topc";
/// Requests that wait for the writer thread; a full queue makes the senders wait.
const QUEUE: usize = 1024;
/// How often old segments are looked for.
const EXPIRE_EVERY_MS: u64 = 60_000;
/// Requests in one group: bounds the time to the group's sync.
const GROUP: usize = 256;

/// How the embedded log keeps its files.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedOptions {
    /// A segment is rolled at this size; retention drops whole segments.
    pub segment_bytes: u64,
}

impl Default for EmbeddedOptions {
    /// 64 MB: small enough to drop often, large enough that a year is a few hundred files.
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024 }
    }
}

/// Why the folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process; one process holds an embedded log")]
    InUse(PathBuf),
    /// A file cannot be used.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A topic's description cannot be read.
    #[error("{path}: is not a topic's description: {problem}")]
    Topic {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct TopicFile {
    name: String,
    partitions: u32,
    cleanup: String,
}

impl TopicFile {
    fn of(spec: &TopicSpec) -> Self {
        let cleanup = match spec.cleanup {
            Cleanup::Retention(time) => format!("retention {} s", time.as_secs()),
            Cleanup::Compaction { min_lag } => format!("compaction after {} s", min_lag.as_secs()),
            Cleanup::KeepAll => "keep all".to_owned(),
        };
        Self { name: spec.name.clone(), partitions: spec.partitions, cleanup }
    }

    fn retention(&self) -> Option<Duration> {
        let seconds = self.cleanup.strip_prefix("retention ")?.strip_suffix(" s")?;
        seconds.parse().ok().map(Duration::from_secs)
    }

    fn words(&self) -> String {
        format!("{} partitions, {}", self.partitions, self.cleanup)
    }
}

/// A topic's description and its partitions.
type OpenTopic = (TopicFile, Vec<Arc<PartitionLog>>);

struct Request {
    partition: Arc<PartitionLog>,
    records: Vec<Record>,
    atomic: bool,
    fence: Option<(String, u64)>,
    answer: oneshot::Sender<Result<u64, WriteFailure>>,
}

enum WriteFailure {
    Fenced,
    Nothing(String),
    Unknown(String),
}

struct Shared {
    dir: PathBuf,
    options: EmbeddedOptions,
    topics: Mutex<HashMap<String, OpenTopic>>,
    tokens: Mutex<HashMap<String, u64>>,
    _lock: File,
}

/// The embedded log; clones share it.
#[derive(Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or begins one there. The writer thread ends with the last clone.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Io { path, error }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(io(&lock_path))?;
        lock.try_lock().map_err(|_| OpenError::InUse(dir.to_owned()))?;
        let mut topics = HashMap::new();
        for name in RealDisk.list(dir).map_err(io(dir))? {
            let path = dir.join(&name).join("topic");
            let Some(contents) = checked_file::read(&RealDisk, &path, TOPIC_KIND)? else { continue };
            let file: TopicFile = serde_json::from_slice(&contents)
                .map_err(|e| OpenError::Topic { path: path.clone(), problem: e.to_string() })?;
            let partitions = open_partitions(dir, &file, options.segment_bytes)?;
            topics.insert(file.name.clone(), (file, partitions));
        }
        let (queue, requests) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            topics: Mutex::new(topics),
            tokens: Mutex::new(HashMap::new()),
            _lock: lock,
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("embedded-log".to_owned())
            .spawn(move || write_groups(&writer, requests))
            .map_err(io(dir))?;
        Ok(Self { shared, queue })
    }

    fn partition(&self, topic: &str, partition: Partition) -> Result<Arc<PartitionLog>, TopicError> {
        let index = usize::try_from(partition.get()).unwrap_or(usize::MAX);
        let topics = locked(&self.shared.topics);
        let found = topics.get(topic).and_then(|(_, partitions)| partitions.get(index)).map(Arc::clone);
        found.ok_or_else(|| TopicError::Unknown { topic: topic.to_owned(), partition })
    }

    async fn write(
        &self,
        partition: Arc<PartitionLog>,
        records: Vec<Record>,
        fence: Option<(String, u64)>,
    ) -> Result<u64, WriteFailure> {
        let (answer, answered) = oneshot::channel();
        let request = Request { partition, records, atomic: fence.is_some(), fence, answer };
        let stopped = || WriteFailure::Nothing("the log's writer has stopped".to_owned());
        self.queue.send(request).await.map_err(|_| stopped())?;
        answered
            .await
            .unwrap_or_else(|_| Err(WriteFailure::Unknown("the log's writer has stopped".to_owned())))
    }
}

/// The writer thread: groups what is waiting, so that a sync serves many.
fn write_groups(shared: &Shared, mut requests: mpsc::Receiver<Request>) {
    let mut group = Vec::with_capacity(GROUP);
    let mut last_expiry = platform::clock::now();
    while requests.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut touched: Vec<Arc<PartitionLog>> = Vec::new();
        let mut pending = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            match append_request(shared, &request) {
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
        for (request, last) in pending {
            let failure = failed.iter().find(|(p, _)| Arc::ptr_eq(p, &request.partition));
            let outcome = failure.map_or(Ok(last), |(_, error)| Err(WriteFailure::Unknown(error.clone())));
            // Whoever asked may be gone; what was appended stays.
            drop(request.answer.send(outcome));
        }
        let now = platform::clock::now();
        if now.since(last_expiry) >= EXPIRE_EVERY_MS {
            last_expiry = now;
            expire_all(shared, now);
        }
    }
}

fn expire_all(shared: &Shared, now: Millis) {
    let all: Vec<Arc<PartitionLog>> =
        locked(&shared.topics).values().flat_map(|(_, partitions)| partitions).map(Arc::clone).collect();
    for partition in all {
        if let Err(error) = expire(&partition, now) {
            tracing::error!(%error, "old segments could not be dropped");
        }
    }
}

fn append_request(shared: &Shared, request: &Request) -> Result<u64, WriteFailure> {
    if let Some((id, token)) = &request.fence
        && locked(&shared.tokens).get(id) != Some(token)
    {
        return Err(WriteFailure::Fenced);
    }
    let logged_at = platform::clock::now();
    let count = request.records.len();
    let frames: Vec<Vec<u8>> = request
        .records
        .iter()
        .enumerate()
        .map(|(index, record)| stored::encode(!request.atomic || index + 1 == count, logged_at, record))
        .collect();
    let mut store = request.partition.store.write().unwrap_or_else(PoisonError::into_inner);
    let first = store
        .append(frames.iter().map(Vec::as_slice))
        .map_err(|error| WriteFailure::Nothing(error.to_string()))?;
    Ok((first + u64::try_from(count).unwrap_or(0)).saturating_sub(1))
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, TopicError> {
        let wanted = TopicFile::of(spec);
        let shared = Arc::clone(&self.shared);
        let unavailable = |e: &dyn std::fmt::Display| TopicError::Unavailable(e.to_string());
        let made = tokio::task::spawn_blocking(move || {
            let mut topics = locked(&shared.topics);
            if let Some((existing, _)) = topics.get(&wanted.name) {
                return match *existing == wanted {
                    true => Ok(false),
                    false => Err(TopicError::Disagrees {
                        topic: wanted.name.clone(),
                        found: existing.words(),
                        wanted: wanted.words(),
                    }),
                };
            }
            let partitions = open_partitions(&shared.dir, &wanted, shared.options.segment_bytes)
                .map_err(|e| unavailable(&e))?;
            let json = serde_json::to_vec(&wanted).map_err(|e| unavailable(&e))?;
            let path = shared.dir.join(&wanted.name).join("topic");
            checked_file::write(&RealDisk, &path, TOPIC_KIND, &json).map_err(|e| unavailable(&e))?;
            RealDisk.sync_dir(&shared.dir).map_err(|e| unavailable(&e))?;
            topics.insert(wanted.name.clone(), (wanted, partitions));
            Ok(true)
        });
        made.await.map_err(|e| TopicError::Unavailable(e.to_string()))?
    }

    async fn append(
        &self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, AppendError> {
        check_sizes(&records)?;
        let partition = self.partition(topic, partition).map_err(|e| AppendError::Refused(e.to_string()))?;
        match self.write(partition, records, None).await {
            Ok(last) => Ok(Offset::new(last)),
            Err(WriteFailure::Fenced) => Err(AppendError::Refused("fenced".to_owned())),
            Err(WriteFailure::Nothing(error)) => Err(AppendError::Refused(error)),
            Err(WriteFailure::Unknown(error)) => Err(AppendError::Unknown(error)),
        }
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
        let mut synced = partition.synced.subscribe();
        if *synced.borrow_and_update() == from.get() {
            // At the end; a time-out gives an empty batch below.
            drop(tokio::time::timeout(wait, synced.changed()).await);
        }
        let read = tokio::task::spawn_blocking(move || read_now(&partition, from, max_bytes));
        read.await.map_err(|e| TopicError::Unavailable(e.to_string()))?
    }

    async fn bounds(&self, topic: &str, partition: Partition) -> Result<Bounds, TopicError> {
        let partition = self.partition(topic, partition)?;
        let next = *partition.synced.borrow();
        let first = partition.store.read().unwrap_or_else(PoisonError::into_inner).first();
        Ok(Bounds { first: Offset::new(first), next: Offset::new(next) })
    }

    async fn offset_at(&self, topic: &str, partition: Partition, at: Millis) -> Result<Offset, TopicError> {
        let partition = self.partition(topic, partition)?;
        let search = tokio::task::spawn_blocking(move || {
            let store = partition.store.read().unwrap_or_else(PoisonError::into_inner);
            let (mut low, mut high) = (store.first(), *partition.synced.borrow());
            while low < high {
                let middle = low + (high - low) / 2;
                let bytes = store.get(middle).map_err(|e| TopicError::Unavailable(e.to_string()))?;
                let frame = bytes.and_then(|bytes| stored::decode(&bytes).ok());
                if frame.is_some_and(|frame| frame.logged_at < at) { low = middle + 1 } else { high = middle }
            }
            Ok(Offset::new(low))
        });
        search.await.map_err(|e| TopicError::Unavailable(e.to_string()))?
    }

    async fn open_writer(&self, id: &str) -> Result<Box<dyn FencedWriter>, TopicError> {
        let mut tokens = locked(&self.shared.tokens);
        let token = tokens.entry(id.to_owned()).or_default();
        *token += 1;
        Ok(Box::new(EmbeddedWriter { log: self.clone(), fence: (id.to_owned(), *token) }))
    }
}

struct EmbeddedWriter {
    log: EmbeddedLog,
    fence: (String, u64),
}

#[async_trait]
impl FencedWriter for EmbeddedWriter {
    async fn commit(
        &mut self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, CommitError> {
        let failed = |e: String| CommitError::Failed(e);
        check_sizes(&records).map_err(|e| failed(e.to_string()))?;
        let partition = self.log.partition(topic, partition).map_err(|e| failed(e.to_string()))?;
        match self.log.write(partition, records, Some(self.fence.clone())).await {
            Ok(last) => Ok(Offset::new(last)),
            Err(WriteFailure::Fenced) => Err(CommitError::Fenced),
            Err(WriteFailure::Nothing(error) | WriteFailure::Unknown(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: Partition = Partition::new(0);

    fn spec() -> TopicSpec {
        TopicSpec { name: "t".to_owned(), partitions: 1, cleanup: Cleanup::KeepAll }
    }

    fn record(value: &str) -> Record {
        Record { key: None, value: Some(value.into()), headers: vec![] }
    }

    #[tokio::test]
    async fn a_second_process_is_refused_and_a_reopened_log_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap();
        log.ensure_topic(&spec()).await.unwrap();
        log.append("t", P0, vec![record("1"), record("2")]).await.unwrap();
        let second = EmbeddedLog::open(dir.path(), EmbeddedOptions::default());
        assert!(matches!(second, Err(OpenError::InUse(_))));
        let shared = Arc::downgrade(&log.shared);
        drop(log);
        tokio::task::spawn_blocking(move || {
            while shared.strong_count() > 0 {
                std::thread::yield_now()
            }
        })
        .await
        .unwrap();
        let log = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap();
        assert!(!log.ensure_topic(&spec()).await.unwrap());
        assert_eq!(log.append("t", P0, vec![record("3")]).await.unwrap(), Offset::new(2));
    }
}

//! The log on this machine's disk: one process holds it, and nothing is acknowledged before it is synced.
//!
//! Owns the folder (lock, topics, partitions) and its two threads: one writes, one removes what is too old.

mod cleaner;
mod partition;
mod topic;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use platform::closed::{HoldError, hold};
use platform::segments::disk::{Disk, RealDisk};
use platform::segments::{SegmentError, checked_file};
use schemas::ids::{Offset, Partition};
use schemas::per_partition::PerPartition;
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::{mpsc, oneshot, watch};

use self::cleaner::clean_until_stopped;
use self::partition::{PartitionLog, open_partitions, read_now};
use self::topic::TopicFile;
use self::writer::{Request, Tokens, WriteFailure, write_groups};
use super::{
    AppendError, Batch, Bounds, CommitError, Committed, FencedWriter, Log, ReadError, TopicError, TopicSpec,
    check_sizes,
};

const TOPIC_KIND: &[u8; 4] = b"topc";
/// Requests that wait for the writer thread; a full queue makes the senders wait.
const QUEUE: usize = 1024;

/// How the embedded log keeps its files.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedOptions {
    /// A segment is rolled at this size; retention drops whole segments.
    pub segment_bytes: u64,
    /// The time between two cleanings.
    pub clean_every: Duration,
}

impl Default for EmbeddedOptions {
    /// 64 MB: small enough to drop often, large enough that a year is a few hundred files. A minute: records live for
    /// hours at least.
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, clean_every: Duration::from_secs(60) }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
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
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A topic's description cannot be read.
    #[error("{path}: is not a topic's description: {problem}")]
    Topic { path: PathBuf, problem: String },
}

/// A topic's description and its partitions.
type OpenTopic = (TopicFile, PerPartition<Arc<PartitionLog>>);

/// All topics by name.
type Topics = Arc<Mutex<HashMap<String, OpenTopic>>>;

/// What all clones share; the threads end, and are joined, with the last of them.
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: EmbeddedOptions,
    topics: Topics,
    tokens: Tokens,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Request>>,
    /// The reason why the log must be opened again.
    fault: watch::Sender<Option<String>>,
    stop_cleaner: Option<std::sync::mpsc::SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
    _lock: Option<File>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue = None;
        self.stop_cleaner = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(dir = %self.dir.display(), "a thread of the log has panicked");
            }
        }
        for partition in locked(&self.topics).values().flat_map(|(_, partitions)| partitions.values()) {
            if let Err(error) = partition.save_index() {
                tracing::warn!(%error, "an index was not saved; the next start scans");
            }
        }
    }
}

/// The embedded log; clones share it.
#[derive(Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or begins one there. Its threads end with the last clone.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, OpenError> {
        platform::closed::folder(dir).map_err(io(dir))?;
        let lock = hold(dir, "lock").map_err(|error| match error {
            HoldError::InUse { path } => OpenError::InUse(path),
            HoldError::Unsure { path, error } => io(&path)(error),
        })?;
        Self::open_on(Arc::new(RealDisk), dir, options, Some(lock))
    }

    /// Opens the log on any disk; the caller makes sure that no other process opens it.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: EmbeddedOptions,
        lock: Option<File>,
    ) -> Result<Self, OpenError> {
        let mut topics = HashMap::new();
        for name in disk.list(dir).map_err(io(dir))? {
            let path = dir.join(&name).join("topic");
            let Some(contents) = checked_file::read(disk.as_ref(), &path, TOPIC_KIND)? else { continue };
            let file: TopicFile = serde_json::from_slice(&contents)
                .map_err(|e| OpenError::Topic { path: path.clone(), problem: e.to_string() })?;
            let partitions = open_partitions(&disk, dir, &file, options.segment_bytes)?;
            topics.insert(file.name.clone(), (file, partitions));
        }
        let newest =
            topics.values().flat_map(|(_, partitions)| partitions.values()).filter_map(|p| p.newest()).max();
        let newest = newest.unwrap_or_default();
        let topics: Topics = Arc::new(Mutex::new(topics));
        let tokens = Tokens::default();
        let (queue, requests) = mpsc::channel(QUEUE);
        let fault = watch::Sender::new(None);
        let (stop_cleaner, stopped) = std::sync::mpsc::sync_channel(1);
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(io(dir))
        };
        let written = Arc::clone(&tokens);
        let cleaned = Arc::clone(&topics);
        let every = options.clean_every;
        let seen = fault.clone();
        let threads = vec![
            thread("log-writer", Box::new(move || write_groups(&written, requests, newest, &seen)))?,
            thread("log-cleaner", Box::new(move || clean_until_stopped(&cleaned, every, &stopped)))?,
        ];
        let shared = Shared {
            disk,
            dir: dir.to_owned(),
            options,
            topics,
            tokens,
            queue: Some(queue),
            fault,
            stop_cleaner: Some(stop_cleaner),
            threads,
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn partition(&self, topic: &str, partition: Partition) -> Result<Arc<PartitionLog>, TopicError> {
        let topics = locked(&self.shared.topics);
        let found = topics.get(topic).and_then(|(_, partitions)| partitions.get(partition)).map(Arc::clone);
        found.ok_or_else(|| TopicError::Unknown { topic: topic.to_owned(), partition })
    }

    async fn write(
        &self,
        partition: Arc<PartitionLog>,
        records: Vec<Record>,
        fence: Option<(String, u64)>,
    ) -> Result<u64, WriteFailure> {
        let (answer, answered) = oneshot::channel();
        let request = Request { partition, records, fence, answer };
        let stopped = || WriteFailure::Nothing("the log's writer has stopped".to_owned());
        let queue = self.shared.queue.as_ref().ok_or_else(stopped)?;
        queue.send(request).await.map_err(|_| stopped())?;
        answered
            .await
            .unwrap_or_else(|_| Err(WriteFailure::Unknown("the log's writer has stopped".to_owned())))
    }
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
            let disk = &shared.disk;
            let bytes = shared.options.segment_bytes;
            let partitions =
                open_partitions(disk, &shared.dir, &wanted, bytes).map_err(|e| unavailable(&e))?;
            let json = serde_json::to_vec(&wanted).map_err(|e| unavailable(&e))?;
            let path = shared.dir.join(&wanted.name).join("topic");
            checked_file::write(disk.as_ref(), &path, TOPIC_KIND, &json).map_err(|e| unavailable(&e))?;
            disk.sync_dir(&shared.dir).map_err(|e| unavailable(&e))?;
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
        let search = tokio::task::spawn_blocking(move || partition.offset_at(at));
        search.await.map_err(|e| TopicError::Unavailable(e.to_string()))?
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: Partition,
        before: Offset,
    ) -> Result<(), TopicError> {
        let partition = self.partition(topic, partition)?;
        let dropped = tokio::task::spawn_blocking(move || partition.drop_before(before));
        let dropped = dropped.await.map_err(|e| TopicError::Unavailable(e.to_string()))?;
        dropped.map_err(|e| TopicError::Unavailable(e.to_string()))
    }

    async fn failed(&self) -> String {
        let mut fault = self.shared.fault.subscribe();
        match fault.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
            Ok(Some(fault)) => fault,
            Ok(None) | Err(_) => std::future::pending().await,
        }
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
    ) -> Result<Committed, CommitError> {
        let failed = |e: String| CommitError::Failed(e);
        check_sizes(&records).map_err(|e| failed(e.to_string()))?;
        let partition = self.log.partition(topic, partition).map_err(|e| failed(e.to_string()))?;
        match self.log.write(partition, records, Some(self.fence.clone())).await {
            Ok(last) => Ok(Committed { last: Offset::new(last), next: Offset::new(last).next() }),
            Err(WriteFailure::Fenced) => Err(CommitError::Fenced),
            Err(WriteFailure::Nothing(error) | WriteFailure::Unknown(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cleanup;
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
        drop(log);
        let log = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap();
        assert!(!log.ensure_topic(&spec()).await.unwrap());
        assert_eq!(log.append("t", P0, vec![record("3")]).await.unwrap(), Offset::new(2));
    }

    #[tokio::test]
    async fn a_disk_that_does_not_sync_ends_the_log_by_name() {
        let disk = platform::segments::memory_disk::MemoryDisk::new();
        let options = EmbeddedOptions::default();
        let log = EmbeddedLog::open_on(Arc::new(disk.clone()), Path::new("/log"), options, None).unwrap();
        log.ensure_topic(&spec()).await.unwrap();
        log.append("t", P0, vec![record("1")]).await.unwrap();
        disk.fail_syncs();
        assert!(matches!(log.append("t", P0, vec![record("2")]).await, Err(AppendError::Unknown(_))));
        let why = tokio::time::timeout(Duration::from_secs(10), log.failed()).await.unwrap();
        assert!(why.contains("does not sync"), "{why}");
        assert!(matches!(log.append("t", P0, vec![record("3")]).await, Err(AppendError::Refused(_))));
        let read = log.read("t", P0, Offset::new(0), 100, Duration::ZERO).await.unwrap();
        assert_eq!(read.records.len(), 1, "readers see only what is synced");
    }
}

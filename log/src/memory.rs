//! The log in memory: it has Kafka's semantics, and Kafka's traps on purpose, by seed.
//!
//! Owns the twin for simulation and tests. With faults on, appends end unknown and appear later, batches are cut,
//! offsets have gaps; retention happens when a test calls it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use schemas::ids::{Offset, Partition};
use schemas::per_partition::PerPartition;
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::watch;

use super::{
    AppendError, Batch, Bounds, CommitError, Committed, FencedWriter, Log, ReadError, Stored, TopicError,
    TopicSpec, check_sizes,
};

/// How often the memory log misbehaves, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// The seed of all misbehaviour.
    pub seed: u64,
    /// An append is made, but reported as unknown.
    pub unknown: u16,
    /// A batch is cut somewhere, and reported as unknown.
    pub cut: u16,
}

#[derive(Debug, Default)]
struct PartitionData {
    records: Vec<Stored>,
    first: u64,
    next: u64,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<String, (TopicSpec, PerPartition<PartitionData>)>,
    writers: HashMap<String, u64>,
    random: u64,
    faults: Faults,
    /// Appends that ended unknown.
    unknown: u64,
}

/// A log in memory; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl MemoryLog {
    /// Sets how often it misbehaves from now on.
    pub fn misbehave(&self, faults: Faults) {
        let mut state = self.lock();
        (state.random, state.faults) = (faults.seed, faults);
    }

    /// How many appends have ended unknown.
    pub fn unknown_appends(&self) -> u64 {
        self.lock().unknown
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Retention: removes everything before an offset, also in the active segment.
    pub fn expire(&self, topic: &str, partition: Partition, before: Offset) {
        if let Ok(data) = self.lock().partition(topic, partition) {
            data.expire(before);
        }
    }

    /// Loses a record, as a damaged disk does.
    pub fn lose(&self, topic: &str, partition: Partition, lost: Offset) {
        if let Ok(data) = self.lock().partition(topic, partition) {
            data.records.retain(|stored| stored.offset != lost);
        }
    }

    fn push(&self, topic: &str, partition: Partition, records: Vec<Record>) -> Result<Offset, TopicError> {
        let last = self.lock().partition(topic, partition)?.push(records);
        self.changed.send_modify(|version| *version += 1);
        Ok(last)
    }
}

impl State {
    fn partition(&mut self, topic: &str, partition: Partition) -> Result<&mut PartitionData, TopicError> {
        let found = self.topics.get_mut(topic).and_then(|(_, partitions)| partitions.get_mut(partition));
        found.ok_or_else(|| TopicError::Unknown { topic: topic.to_owned(), partition })
    }

    /// SplitMix64: small, seeded, and the same everywhere.
    fn chance(&mut self, thousandths: u16) -> Option<u64> {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z % 1000 < u64::from(thousandths)).then_some(z / 1000)
    }
}

impl PartitionData {
    fn expire(&mut self, before: Offset) {
        self.records.retain(|stored| stored.offset >= before);
        self.first = self.first.max(before.get().min(self.next));
    }

    fn push(&mut self, records: Vec<Record>) -> Offset {
        let logged_at = platform::clock::now();
        for record in records {
            self.records.push(Stored { offset: Offset::new(self.next), logged_at, record });
            self.next += 1;
        }
        Offset::new(self.next.saturating_sub(1))
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, TopicError> {
        let mut state = self.lock();
        if let Some((existing, _)) = state.topics.get(&spec.name) {
            return match existing == spec {
                true => Ok(false),
                false => Err(TopicError::Disagrees {
                    topic: spec.name.clone(),
                    found: format!("{} partitions, {:?}", existing.partitions, existing.cleanup),
                    wanted: format!("{} partitions, {:?}", spec.partitions, spec.cleanup),
                }),
            };
        }
        let partitions = PerPartition::from_fn(spec.partitions, |_| PartitionData::default());
        state.topics.insert(spec.name.clone(), (spec.clone(), partitions));
        Ok(true)
    }

    async fn append(
        &self,
        topic: &str,
        partition: Partition,
        mut records: Vec<Record>,
    ) -> Result<Offset, AppendError> {
        check_sizes(&records)?;
        let (cut, unknown) = {
            let mut state = self.lock();
            let faults = state.faults;
            let (cut, unknown) = (state.chance(faults.cut), state.chance(faults.unknown));
            state.unknown += u64::from(cut.or(unknown).is_some());
            (cut, unknown)
        };
        if let Some(random) = cut {
            let keep = usize::try_from(random).unwrap_or(0) % (records.len() + 1);
            records.truncate(keep);
        }
        let last = self.push(topic, partition, records).map_err(|e| AppendError::Refused(e.to_string()))?;
        match cut.or(unknown) {
            Some(_) => Err(AppendError::Unknown("the connection broke".to_owned())),
            None => Ok(last),
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
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            changed.mark_unchanged();
            {
                let mut state = self.lock();
                let data = state.partition(topic, partition)?;
                let first = Offset::new(data.first);
                let next = Offset::new(data.next);
                if from < first {
                    return Err(ReadError::BeforeFirst { wanted: from, first });
                }
                if from > next {
                    return Err(ReadError::BeyondEnd { wanted: from, next });
                }
                let begin = data.records.partition_point(|stored| stored.offset < from);
                let mut size = 0;
                let records: Vec<Stored> = data
                    .records
                    .iter()
                    .skip(begin)
                    .take_while(|stored| {
                        let fits = size == 0 || size + stored.record.size() <= max_bytes;
                        size += stored.record.size();
                        fits
                    })
                    .cloned()
                    .collect();
                let whole = begin + records.len() == data.records.len();
                let after = records.last().map_or(from, |stored| stored.offset.next());
                let batch = Batch { next: if whole { next } else { after }, records };
                if batch.next > from {
                    return Ok(batch);
                }
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Ok(Batch { records: Vec::new(), next: from });
            }
        }
    }

    async fn bounds(&self, topic: &str, partition: Partition) -> Result<Bounds, TopicError> {
        let mut state = self.lock();
        let data = state.partition(topic, partition)?;
        Ok(Bounds { first: Offset::new(data.first), next: Offset::new(data.next) })
    }

    async fn offset_at(&self, topic: &str, partition: Partition, at: Millis) -> Result<Offset, TopicError> {
        let mut state = self.lock();
        let data = state.partition(topic, partition)?;
        let index = data.records.partition_point(|stored| stored.logged_at < at);
        Ok(data.records.get(index).map_or(Offset::new(data.next), |stored| stored.offset))
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: Partition,
        before: Offset,
    ) -> Result<(), TopicError> {
        self.lock().partition(topic, partition)?.expire(before);
        Ok(())
    }

    async fn open_writer(&self, id: &str) -> Result<Box<dyn FencedWriter>, TopicError> {
        let mut state = self.lock();
        let token = state.writers.entry(id.to_owned()).or_default();
        *token += 1;
        Ok(Box::new(MemoryWriter { log: self.clone(), id: id.to_owned(), token: *token }))
    }
}

struct MemoryWriter {
    log: MemoryLog,
    id: String,
    token: u64,
}

#[async_trait]
impl FencedWriter for MemoryWriter {
    async fn commit(
        &mut self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Committed, CommitError> {
        check_sizes(&records).map_err(|e| CommitError::Failed(e.to_string()))?;
        let committed = {
            let mut state = self.log.lock();
            if state.writers.get(&self.id) != Some(&self.token) {
                return Err(CommitError::Fenced);
            }
            let data = state.partition(topic, partition).map_err(|e| CommitError::Failed(e.to_string()))?;
            let last = data.push(records);
            // Kafka writes a marker that takes an offset.
            data.next += 1;
            Committed { last, next: Offset::new(data.next) }
        };
        self.log.changed.send_modify(|version| *version += 1);
        Ok(committed)
    }
}

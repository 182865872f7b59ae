//! The oracle: what the log really holds, what every replica must be, and each promise that was broken.
//!
//! Owns its own fold of the log: `support::counting` says what counts, and not the code that is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::avro::binary::Cursor as Datums;
use schemas::avro::container::Decoder;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::cursor::Cursor;
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::ids::{AgreementNumber, Digest, Offset, Partition};
use schemas::limits::MAX_FRAME_BYTES;
use schemas::marks::Checkpoint;
use schemas::promise::Promise;
use schemas::record::{Kind, Record};
use sha2::{Digest as Hash, Sha256};
use support::counting::{Counter, Counts, array};
use tokio::time::Instant;

use crate::register::{self, Change, Row, Rows};

/// The beginning of every value of the field that no agreement names.
const DENIED: &[u8] = b"secret";
/// Violations that are kept: the first says most.
const KEPT: usize = 8;
/// The frame in front of a value.
const FRAME_BYTES: usize = 5;

#[derive(Debug, Default)]
struct PartitionStory {
    counter: Counter,
    /// The digests of all that counted: each says all that came before it in its epoch.
    chain: BTreeSet<Digest>,
    counted: Vec<(Offset, Change)>,
    rows: Rows,
}

/// What was committed to a state topic's partition.
#[derive(Debug, Default)]
struct StateStory {
    /// The entries of each block: a key, and its row or that it is gone.
    blocks: Vec<(Offset, Vec<Change>)>,
    /// How far the log was folded at the last checkpoint.
    as_of: Offset,
}

/// Which rows an agreement permits, by version.
#[derive(Debug, Clone, Default)]
pub struct Permits {
    /// Territories, by version from 1.
    pub versions: Vec<BTreeSet<usize>>,
    /// Its revocation was requested.
    pub is_asked: bool,
    /// Its revocation was acknowledged.
    pub is_revoked: bool,
}

struct State {
    /// By channel and partition.
    stories: BTreeMap<String, Vec<PartitionStory>>,
    permits: BTreeMap<String, Permits>,
    /// What was committed to each state topic.
    materialised: BTreeMap<(String, Partition), StateStory>,
    broken: Vec<(Promise, String)>,
    history: Sha256,
    prints: bool,
    begun: Instant,
}

/// Sees everything; clones share it.
#[derive(Clone)]
pub struct Oracle {
    state: Arc<Mutex<State>>,
    codec: Arc<ChangeCodec>,
}

/// Looks into one stream as it leaves a router.
pub struct Tap {
    number: String,
    decoder: Decoder,
    codec: Option<DeliveryCodec>,
}

impl Oracle {
    /// An oracle before any event; `prints` prints the history in words.
    pub fn new(prints: bool) -> anyhow::Result<Self> {
        let state = State {
            stories: BTreeMap::new(),
            permits: BTreeMap::new(),
            materialised: BTreeMap::new(),
            broken: Vec::new(),
            history: Sha256::new(),
            prints,
            begun: Instant::now(),
        };
        let codec = ChangeCodec::new(&AvroSchema::parse(register::SCHEMA)?)?;
        Ok(Self { state: Arc::new(Mutex::new(state)), codec: Arc::new(codec) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel's log, with so many partitions.
    pub fn watch_log(&self, topic: &str, partitions: u32) {
        let stories = (0..partitions).map(|_| PartitionStory::default()).collect();
        self.lock().stories.insert(topic.to_owned(), stories);
    }

    /// What an agreement permits.
    pub fn permit(&self, number: &str, permits: Permits) {
        self.lock().permits.insert(number.to_owned(), permits);
    }

    /// A new version of an agreement is about to be declared.
    pub fn amend(&self, number: &str, territories: BTreeSet<usize>) {
        if let Some(permits) = self.lock().permits.get_mut(number) {
            permits.versions.push(territories);
        }
    }

    /// A revocation is about to be asked for.
    pub fn revoking(&self, number: &str) {
        if let Some(permits) = self.lock().permits.get_mut(number) {
            permits.is_asked = true;
        }
    }

    /// Whether an agreement's revocation was requested.
    pub fn is_revocation_asked(&self, number: &AgreementNumber) -> bool {
        self.lock().permits.get(number.as_str()).is_some_and(|permits| permits.is_asked)
    }

    /// A revocation was acknowledged.
    pub fn revoked(&self, number: &str) {
        if let Some(permits) = self.lock().permits.get_mut(number) {
            permits.is_revoked = true;
        }
    }

    /// Whether an agreement's revocation was acknowledged.
    pub fn is_revoked(&self, number: &str) -> bool {
        self.lock().permits.get(number).is_some_and(|permits| permits.is_revoked)
    }

    /// Something happened: a part of the history.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let what = what();
        let mut state = self.lock();
        let line = format!("{:9.3} {what}\n", state.begun.elapsed().as_secs_f64());
        state.history.update(line.as_bytes());
        if state.prints {
            print!("{line}");
        }
    }

    /// A promise was broken.
    pub fn broken(&self, promise: Promise, what: String) {
        self.note(|| format!("BROKEN {}: {what}", promise.as_str()));
        let mut state = self.lock();
        if state.broken.len() < KEPT {
            state.broken.push((promise, what));
        }
    }

    /// The promises that were broken so far, with what was seen.
    pub fn verdict(&self) -> Vec<(Promise, String)> {
        self.lock().broken.clone()
    }

    /// The digest of all that happened.
    pub fn history(&self) -> String {
        hex::encode(self.lock().history.clone().finalize())
    }

    /// Records were appended to a log, the last of them at an offset.
    pub fn logged(&self, topic: &str, partition: Partition, last: Offset, records: &[Record]) {
        let count = u64::try_from(records.len()).unwrap_or(0);
        let first = (last.get() + 1).saturating_sub(count);
        let mut counted = 0;
        for (offset, record) in (first..).zip(records) {
            match self.count(topic, partition, Offset::new(offset), record) {
                Ok(changes) => counted += changes,
                Err(problem) => {
                    let what = format!("{topic}/{partition} at {offset}: {problem}");
                    self.broken(Promise::AcceptedOnce, what);
                }
            }
        }
        self.note(|| {
            let mut hash = Sha256::new();
            for record in records {
                hash.update(record.key.as_deref().unwrap_or_default());
                hash.update(record.value.as_deref().unwrap_or_default());
                record.headers.iter().for_each(|(_, value)| hash.update(value));
            }
            let digest = hex::encode(hash.finalize());
            format!("{topic}/{partition} {first}..={last} {digest}, {counted} changes count")
        });
        if topic.ends_with(".state") {
            for (offset, record) in (first..).zip(records) {
                if let Err(problem) = self.materialised(topic, partition, Offset::new(offset), record) {
                    let what = format!("{topic}/{partition} at {offset}: {problem}");
                    self.broken(Promise::ReplicaEquation, what);
                }
            }
        }
    }

    /// Takes in a record of a state. At each checkpoint the blocks that it needs give the rows that the log gives up to
    /// there, whichever router wrote them and whatever was cleaned: a holder that began before it had fenced the last one
    /// would go back.
    fn materialised(
        &self,
        topic: &str,
        partition: Partition,
        offset: Offset,
        record: &Record,
    ) -> Result<(), String> {
        let state = &mut *self.lock();
        let story = state.materialised.entry((topic.to_owned(), partition)).or_default();
        let value = record.value.as_deref().unwrap_or_default();
        let datum = value.get(FRAME_BYTES..).unwrap_or_default();
        match Kind::of(record) {
            Some(Kind::Images) => {
                let (count, items) = array(datum).ok_or("it is no array of changes")?;
                let mut items = Datums::new(items);
                let entries: Result<Vec<Change>, String> =
                    (0..count).map(|_| self.entry(&mut items)).collect();
                story.blocks.push((offset, entries?));
                Ok(())
            }
            Some(Kind::Checkpoint) => {
                let checkpoint = Checkpoint::decode(datum).map_err(|error| error.to_string())?;
                let first = record.header_text("dit_first").and_then(|text| text.parse().ok());
                let first = Offset::new(first.ok_or("it does not say where the state begins")?);
                if checkpoint.as_of < story.as_of {
                    return Err(format!("it goes back from {} to {}", story.as_of, checkpoint.as_of));
                }
                story.as_of = checkpoint.as_of;
                let needed = story.blocks.iter().filter(|(at, _)| *at >= first);
                let held = rows_after(needed.flat_map(|(_, entries)| entries.iter().cloned()));
                let log = topic.replace(".state", ".log");
                let log = state.stories.get(&log).and_then(|stories| stories.get(partition.index()));
                let counted = log.map(|log| log.counted.as_slice()).unwrap_or_default().iter();
                let counted = counted.take_while(|(at, _)| *at < checkpoint.as_of);
                let true_rows = rows_after(counted.map(|(_, change)| change.clone()));
                match held == true_rows {
                    true => Ok(()),
                    false => Err(format!("the state is {held:?}, but the log gives {true_rows:?}")),
                }
            }
            _ => Err("it is neither a block nor a checkpoint".to_owned()),
        }
    }

    /// A key of the state, and its row or that it is gone.
    fn entry(&self, items: &mut Datums<'_>) -> Result<Change, String> {
        let change = self.codec.decode(items).map_err(|error| format!("an entry cannot be read: {error}"))?;
        let row = change.after.map(register::read).transpose();
        let row = row.map_err(|error| format!("an image cannot be read: {error}"))?;
        Ok((change.key.to_owned(), row.map(|(_, row)| row)))
    }

    /// Counts a record: how many changes of it count, or what is wrong with it.
    fn count(
        &self,
        topic: &str,
        partition: Partition,
        offset: Offset,
        record: &Record,
    ) -> Result<usize, String> {
        let mut state = self.lock();
        let story = state.stories.get_mut(topic).and_then(|stories| stories.get_mut(partition.index()));
        let Some(story) = story else { return Ok(0) };
        let counts = story.counter.pass(record);
        story.chain.extend(story.counter.digest());
        match counts {
            None => Ok(0),
            Some(Counts::Changes { count, datums }) => {
                let mut datums = Datums::new(datums);
                for _ in 0..count {
                    self.fold(story, offset, &mut datums)?;
                }
                datums.end().map_err(|error| error.to_string())?;
                Ok(usize::try_from(count).unwrap_or(usize::MAX))
            }
            // Every before image fits: no resync is needed.
            Some(Counts::Resync) => Err("everybody is told to start over".to_owned()),
        }
    }

    fn fold(&self, story: &mut PartitionStory, block: Offset, datums: &mut Datums<'_>) -> Result<(), String> {
        let change =
            self.codec.decode(datums).map_err(|error| format!("a change cannot be read: {error}"))?;
        let image = |image: Option<&[u8]>| image.map(register::read).transpose();
        let (before, after) = match (image(change.before), image(change.after)) {
            (Ok(before), Ok(after)) => (before.map(|(_, row)| row), after.map(|(_, row)| row)),
            (Err(error), _) | (_, Err(error)) => return Err(format!("an image cannot be read: {error}")),
        };
        let key = change.key.to_owned();
        let known = story.rows.get(&key).copied();
        match after {
            Some(row) => story.rows.insert(key.clone(), row),
            None => story.rows.remove(&key),
        };
        story.counted.push((block, (key.clone(), after)));
        match known == before {
            true => Ok(()),
            false => Err(format!("{key} was {known:?}, but its event says {before:?} before {after:?}")),
        }
    }

    /// Whether an entry of an outbox has counted, by its digest.
    pub fn has_counted(&self, topic: &str, partition: Partition, digest: Digest) -> bool {
        let state = self.lock();
        let story = state.stories.get(topic).and_then(|stories| stories.get(partition.index()));
        story.is_some_and(|story| story.chain.contains(&digest))
    }

    /// The present rows of a channel's log.
    pub fn rows(&self, topic: &str) -> Rows {
        let state = self.lock();
        let stories = state.stories.get(topic).map(Vec::as_slice).unwrap_or_default();
        stories.iter().flat_map(|story| story.rows.clone()).collect()
    }

    /// All changes of each key that counted, in order.
    pub fn story(&self, topic: &str) -> BTreeMap<String, Vec<Option<Row>>> {
        let state = self.lock();
        let mut by_key: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (_, (key, after)) in state.stories.get(topic).into_iter().flatten().flat_map(|s| &s.counted) {
            by_key.entry(key.clone()).or_default().push(*after);
        }
        by_key
    }

    /// Whether a cursor is past everything that counts.
    pub fn is_at_end(&self, topic: &str, cursor: &Cursor) -> bool {
        let state = self.lock();
        let stories = state.stories.get(topic).map(Vec::as_slice).unwrap_or_default();
        let last = |story: &PartitionStory| story.counted.last().map(|(offset, _)| *offset);
        cursor.snapshot.is_none()
            && stories
                .iter()
                .zip(cursor.places.values())
                .all(|(s, place)| last(s).is_none_or(|at| place.offset > at))
    }

    /// What a replica under an agreement must be at a cursor (docs/protocol.md, 5).
    pub fn replica(&self, number: &str, topic: &str, cursor: &Cursor) -> Option<Rows> {
        let state = self.lock();
        let version = usize::try_from(cursor.version.get()).ok()?;
        let territories = state.permits.get(number)?.versions.get(version.checked_sub(1)?)?;
        let mut rows = Rows::new();
        for (story, place) in state.stories.get(topic)?.iter().zip(cursor.places.values()) {
            for (_, (key, after)) in story.counted.iter().take_while(|(offset, _)| *offset < place.offset) {
                match after.filter(|row| territories.contains(&row.territory)) {
                    Some(row) => rows.insert(key.clone(), row),
                    None => rows.remove(key),
                };
            }
        }
        Some(rows)
    }

    /// Whether any version of an agreement permits a row.
    pub fn permits(&self, number: &str, row: Row) -> bool {
        let state = self.lock();
        let permits = state.permits.get(number);
        permits.is_some_and(|permits| permits.versions.iter().any(|set| set.contains(&row.territory)))
    }

    /// Looks into a stream, where the request is one for a stream.
    pub fn tap(&self, uri: &str) -> Option<Tap> {
        let number = uri.strip_prefix("/v1/agreements/")?.split_once("/stream")?.0.to_owned();
        Some(Tap { number, decoder: Decoder::new(), codec: None })
    }

    /// Bytes leave a router.
    pub fn handed_over(&self, tap: &mut Tap, bytes: &[u8]) {
        if bytes.len() > 2 * MAX_FRAME_BYTES {
            self.broken(Promise::Bounded, format!("{}: a frame of {} bytes", tap.number, bytes.len()));
        }
        if bytes.windows(DENIED.len()).any(|window| window == DENIED) {
            self.broken(Promise::DefaultDeny, format!("{}: a field that nobody may have", tap.number));
        }
        match rows_of(tap, bytes) {
            Ok(0) => {}
            Ok(rows) if self.is_revoked(&tap.number) => {
                let what = format!("{rows} rows under {} after its revocation was acknowledged", tap.number);
                self.broken(Promise::Revocation, what);
            }
            Ok(_) => {}
            // A refusal is no stream.
            Err(_) if tap.codec.is_none() => {}
            Err(error) => {
                self.broken(Promise::IsolationOfPoison, format!("{}: {error:#}", tap.number));
            }
        }
    }
}

/// The rows after changes in order.
fn rows_after(changes: impl Iterator<Item = Change>) -> Rows {
    let mut rows = Rows::new();
    for (key, row) in changes {
        match row {
            Some(row) => rows.insert(key, row),
            None => rows.remove(&key),
        };
    }
    rows
}

/// How many rows the bytes bring.
fn rows_of(tap: &mut Tap, bytes: &[u8]) -> anyhow::Result<usize> {
    tap.decoder.push(bytes);
    if tap.codec.is_none()
        && let Some(header) = tap.decoder.header()?
    {
        tap.codec = Some(DeliveryCodec::from_union_schema(&header.schema)?);
    }
    let Some(codec) = &tap.codec else { return Ok(0) };
    let mut rows = 0;
    while let Some(block) = tap.decoder.block()? {
        let mut datums = Datums::new(&block.datums);
        for _ in 0..block.count {
            rows += match codec.decode(&mut datums)? {
                Delivery::Event(_) => 1,
                Delivery::Range { rows, .. } => rows.len(),
                _ => 0,
            };
        }
    }
    Ok(rows)
}

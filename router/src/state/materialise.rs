//! The materialiser of one partition: folds counted events into the state topic, in fenced batches.
//!
//! Owns the order *fence first, then read the last checkpoint, then continue*; the comparison of each event's
//! `before` with the state; and the checkpoints in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::{CommitError, ReadError, TopicError};
use reading::chunk::Item;
use reading::error::ReaderError;
use reading::fold::Fold;
use reading::located::LocatedChange;
use reading::source::PartitionSource;
use schemas::avro::binary::DatumError;
use schemas::avro::located::Located;
use schemas::avro::resolution::resolve_datum;
use schemas::digest::hash128;
use schemas::framing;
use schemas::ids::{Offset, SchemaId};
use schemas::limits::CHECKPOINT_EVERY_CHANGES;
use schemas::marks::{self, Checkpoint, Resync};
use schemas::position::EventPosition;
use schemas::record::{Kind, Record};
use tokio::task::coop::consume_budget;

use super::records::{self, StateMark};
use super::tenure::{StateProgress, StateWatch, Tenure};
use crate::fanout::observer::Chunk;
use crate::fanout::observer::Feed;
use crate::fanout::observer::Follower;

/// At most one resync record a partition in this time.
const RESYNC_PAUSE: Duration = Duration::from_mins(1);
/// A log checkpoint is due after this time when anything was appended: retention must always leave one.
const CHECKPOINT_EVERY: Duration = Duration::from_mins(5);
/// An idle channel gets one a day: retention removes old ones, and readers begin at one.
const CHECKPOINT_WHEN_IDLE: Duration = Duration::from_hours(24);
const READ_BYTES: usize = 1 << 20;
/// Records of one transaction, and events of one commit.
const BATCH_RECORDS: usize = 10_000;
/// Bytes of records that were gathered for a commit: they, what surrounds them in memory, and a chunk are what a partition's
/// state holds.
const COMMIT_BYTES: usize = 2 * 1024 * 1024;
/// The longest wait of an event for its commit. Only late joiners and reopens wait for the state; for the brokers, a commit
/// of one record costs as much as one of hundreds.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Why the materialiser cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An event that could be judged a moment ago.
    #[error(transparent)]
    Datum(#[from] DatumError),
}

/// What the state holds for a key.
#[derive(Debug, Clone, Copy)]
struct Present {
    image: u128,
    schema: SchemaId,
    /// Its record's offset in the state topic; `None` while it waits in a group.
    record: Option<Offset>,
}

/// The materialiser of one partition.
pub struct Materialiser {
    feed: Arc<Feed>,
    tenure: Arc<Tenure>,
    follower: Follower,
    /// By hash of key.
    present: HashMap<u128, Present>,
    state: StateWatch,
    /// See [`StateMark::overtaken`].
    overtaken: Option<Offset>,
    since_checkpoint: u64,
    /// When a checkpoint was last written, or found unnecessary.
    last_look: tokio::time::Instant,
    last_checkpoint: tokio::time::Instant,
    last_resync: Option<tokio::time::Instant>,
}

/// The end of a partition's state: the log position from which it continues, and the fold there.
pub struct RestoredState {
    /// The fold at `position`.
    pub fold: Fold,
    /// The first log offset that the state does not include.
    pub position: Offset,
    /// Whether the log lost events that the state lacks.
    pub is_overtaken: bool,
}

impl RestoredState {
    /// From the state's last checkpoint; `None` before the first.
    pub async fn at(source: &PartitionSource, last: Option<StateMark>) -> Result<Self, StateError> {
        source.check_begin().await?;
        let Some(StateMark { checkpoint, log_checkpoint, .. }) = last else {
            let (fold, position) = source.first_checkpoint().await?;
            return Ok(Self { fold, position, is_overtaken: false });
        };
        source.check_log_id(&checkpoint)?;
        let bounds = source.log.bounds(&source.topic, source.partition).await?;
        let position = checkpoint.as_of;
        if position > bounds.next {
            let why = format!("the state stands at {position}, but the topic ends at {}", bounds.next);
            return Err(source.lost(why).into());
        }
        if position >= bounds.first {
            let fold = Fold::begin(source.kind, log_checkpoint, checkpoint);
            return Ok(Self { fold, position, is_overtaken: false });
        }
        let topic = &source.topic;
        let partition = source.partition;
        tracing::error!(%topic, %partition, %position, first = %bounds.first, "state_overtaken: the log lost events before the state had them; the provider's agent reopens the channel");
        // Without a checkpoint in the log the state's own table continues: what it cannot count waits for the opening.
        let (fold, position) = match source.find_checkpoint().await? {
            Some(found) => found,
            None => (Fold::begin(source.kind, bounds.first, checkpoint), bounds.first),
        };
        Ok(Self { fold, position, is_overtaken: true })
    }
}

/// The next commit: the last record of each key that was touched, in the log's order.
#[derive(Default)]
struct Group {
    /// With the hash of its key; `None` where a later record of the key has replaced one.
    records: Vec<Option<(u128, Record)>>,
    /// By hash of key: the index of its record.
    index: HashMap<u128, usize>,
    bytes: usize,
    /// Events in it.
    events: u64,
    /// When its first chunk came.
    begun: Option<tokio::time::Instant>,
    /// The first event whose before image is not the state's.
    differing: Option<EventPosition>,
}

impl Group {
    /// Adds a key's record, which replaces an earlier one.
    fn put(&mut self, key: u128, record: Record) {
        self.events += 1;
        self.bytes += record.size();
        let earlier = self.index.insert(key, self.records.len());
        self.records.push(Some((key, record)));
        if let Some(earlier) = earlier.and_then(|index| self.records.get_mut(index)) {
            *earlier = None;
        }
    }

    /// A key's record.
    fn record(&self, key: u128) -> Option<&Record> {
        let (_, record) = self.records.get(*self.index.get(&key)?)?.as_ref()?;
        Some(record)
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= COMMIT_BYTES
    }

    /// When it must be committed; `None` while it has nothing.
    fn due(&self) -> Option<tokio::time::Instant> {
        self.begun.map(|begun| if self.is_full() { begun } else { begun + COMMIT_EVERY })
    }
}

impl Materialiser {
    /// Begins where the state ends; the tenure has fenced earlier writers already.
    pub async fn stand(feed: Arc<Feed>, tenure: Arc<Tenure>, state: StateWatch) -> Result<Self, StateError> {
        let (present, last) = read_state(feed.source(), state.topic()).await?;
        let mut overtaken = last.as_ref().and_then(|mark| mark.overtaken);
        let RestoredState { mut fold, mut position, is_overtaken } =
            RestoredState::at(feed.source(), last).await?;
        if is_overtaken {
            // The feed may have counted on since before the loss: no reader of ours stands behind it.
            let tail = feed.tail();
            (position, fold) = (tail.next, tail.fold.clone());
            overtaken = Some(position);
        }
        let follower = Follower::at(Arc::clone(&feed), fold, position);
        let now = tokio::time::Instant::now();
        let mut materialiser = Self {
            feed,
            tenure,
            follower,
            present,
            state,
            overtaken,
            // Records before the start may have no checkpoint yet.
            since_checkpoint: 1,
            last_look: now,
            last_checkpoint: now,
            last_resync: None,
        };
        if is_overtaken {
            // All routers learn of it, and the log has a checkpoint again.
            materialiser.commit(Vec::new()).await?;
            materialiser.checkpoint_log().await;
        }
        materialiser.tell();
        Ok(materialiser)
    }

    fn tell(&self) {
        self.state.advance(StateProgress { to: self.follower.place().offset, overtaken: self.overtaken });
    }

    /// Materialises until something fails; `stand` begins anew.
    pub async fn run(mut self) -> Result<(), StateError> {
        let mut tail = self.feed.watch();
        let mut group = Group::default();
        loop {
            self.gather(&mut group).await?;
            let due = group.due();
            if due.is_some_and(|due| due <= tokio::time::Instant::now()) {
                self.write(std::mem::take(&mut group)).await?;
                continue;
            }
            let look = self.last_look + CHECKPOINT_EVERY;
            match tokio::time::timeout_at(due.unwrap_or(look), tail.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) if due.is_some() => {}
                Err(_) => self.checkpoint_when_due().await,
            }
        }
    }

    /// Takes the available chunks into a group, until it is full. They are taken as they come: the tail keeps few.
    async fn gather(&mut self, group: &mut Group) -> Result<(), StateError> {
        while !group.is_full()
            && let Some(chunk) = self.follower.next().await?
        {
            group.begun.get_or_insert_with(tokio::time::Instant::now);
            self.take(&chunk, group).await?;
        }
        Ok(())
    }

    /// Commits a group.
    async fn write(&mut self, group: Group) -> Result<(), StateError> {
        let Group { records, events, differing, .. } = group;
        let (keys, records): (Vec<u128>, Vec<Record>) = records.into_iter().flatten().unzip();
        self.since_checkpoint += events;
        if self.overtaken.is_some_and(|before| self.follower.fold().opened >= Some(before)) {
            self.overtaken = None;
        }
        let offsets = self.commit(records).await?;
        for (key, offset) in keys.into_iter().zip(offsets) {
            if let Some(present) = self.present.get_mut(&key) {
                present.record = Some(offset);
            }
        }
        self.tell();
        if let Some(position) = differing {
            self.order_resync(position).await;
        }
        self.checkpoint_when_due().await;
        Ok(())
    }

    async fn take(&mut self, chunk: &Chunk, group: &mut Group) -> Result<(), StateError> {
        for item in &chunk.items {
            let Item::Block(block) = item else { continue };
            if block.offset < self.follower.wanted() {
                continue;
            }
            for event in block.changes() {
                consume_budget().await;
                self.take_event(&event, group).await?;
            }
        }
        Ok(())
    }

    async fn take_event(&mut self, event: &LocatedChange<'_>, group: &mut Group) -> Result<(), StateError> {
        let key = hash128(event.change.key.as_bytes());
        // An overtaken state differs anyway: its provider must reopen.
        if self.overtaken.is_none() && group.differing.is_none() && !self.fits(key, event, group).await? {
            group.differing = Some(event.position);
        }
        group.put(key, records::image(event));
        match event.change.images.after {
            Some(after) => {
                let image = hash128(after.bytes());
                self.present.insert(key, Present { image, schema: event.schema, record: None });
            }
            None => drop(self.present.remove(&key)),
        }
        Ok(())
    }

    /// Whether an event's `before` is what the state holds. An image in another schema is first resolved into the
    /// event's.
    async fn fits(&self, key: u128, event: &LocatedChange<'_>, pending: &Group) -> Result<bool, StateError> {
        let (known, before) = match (self.present.get(&key), event.change.images.before.map(Located::bytes)) {
            (None, None) => return Ok(true),
            (Some(known), Some(before)) => (known, before),
            _ => return Ok(false),
        };
        if known.image == hash128(before) {
            return Ok(true);
        }
        if known.schema == event.schema {
            return Ok(false);
        }
        let stored = match known.record {
            None => pending.record(key).cloned(),
            Some(offset) => {
                let source = self.feed.source();
                let read =
                    source.log.read(self.state.topic(), source.partition, offset, 1, Duration::ZERO).await?;
                read.records.into_iter().find(|stored| stored.offset == offset).map(|stored| stored.record)
            }
        };
        let Some(value) = stored.and_then(|record| record.value) else { return Ok(false) };
        let (codec, datum) = self.feed.source().decoder(&value).await?;
        let image = codec.decode_only(datum)?.after.unwrap_or_default();
        let resolved = resolve_datum(codec.subject(), event.codec().subject(), image);
        Ok(resolved.is_ok_and(|resolved| resolved == before))
    }

    fn checkpoint(&self) -> Checkpoint {
        let fold = self.follower.fold();
        Checkpoint {
            log_id: self.feed.source().log_id,
            as_of: self.follower.place().offset,
            freshness: fold.freshness,
            table: fold.table.clone(),
        }
    }

    /// Commits images and the checkpoint after them; returns each record's offset.
    async fn commit(&self, records: Vec<Record>) -> Result<Vec<Offset>, StateError> {
        let partition = self.feed.source().partition;
        let log_checkpoint = self.follower.fold().checkpoint;
        let mark = StateMark { checkpoint: self.checkpoint(), log_checkpoint, overtaken: self.overtaken };
        let end = records::checkpoint(&mark);
        let mut records = records.into_iter().chain(std::iter::once(end)).peekable();
        let mut offsets = Vec::new();
        // Only the last batch carries the checkpoint: earlier batches may repeat without harm.
        while records.peek().is_some() {
            let batch: Vec<Record> = records.by_ref().take(BATCH_RECORDS).collect();
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let last = self.tenure.commit(self.state.topic(), partition, batch).await?;
            offsets.extend((0..count).rev().map(|back| Offset::new(last.get().saturating_sub(back))));
        }
        Ok(offsets)
    }

    /// An event's `before` was not the state's image: every replica starts over from the state.
    async fn order_resync(&mut self, position: EventPosition) {
        let source = self.feed.source();
        self.feed.observer().meter().differs();
        tracing::error!(topic = %source.topic, partition = %source.partition, %position, "the before image of an event differs from the state; every replica of the channel is received anew");
        if self.last_resync.is_some_and(|last| last.elapsed() < RESYNC_PAUSE) {
            return;
        }
        let reason = format!("the before image of the event at {position} is not the state's");
        let record = marks::record(Kind::Resync, &Resync { reason }.encode());
        match source.log.append(&source.topic, source.partition, vec![record]).await {
            Ok(_) => self.last_resync = Some(tokio::time::Instant::now()),
            Err(error) => {
                tracing::error!(topic = %source.topic, partition = %source.partition, %error, "a resync record could not be appended; it is tried again at the next such event")
            }
        }
    }

    async fn checkpoint_when_due(&mut self) {
        let is_late = self.last_look.elapsed() >= CHECKPOINT_EVERY;
        let is_full = self.since_checkpoint >= CHECKPOINT_EVERY_CHANGES;
        let is_old = self.last_checkpoint.elapsed() >= CHECKPOINT_WHEN_IDLE;
        if is_full || is_old || (is_late && self.since_checkpoint > 0) {
            self.checkpoint_log().await;
        }
        if is_late {
            self.last_look = tokio::time::Instant::now();
        }
    }

    /// A checkpoint in the log only helps readers: a failure costs time, and a repeat says the same.
    async fn checkpoint_log(&mut self) {
        let source = self.feed.source();
        let record = marks::record(Kind::Checkpoint, &self.checkpoint().encode());
        match source.log.append(&source.topic, source.partition, vec![record]).await {
            Ok(_) => {
                self.since_checkpoint = 0;
                self.last_look = tokio::time::Instant::now();
                self.last_checkpoint = self.last_look;
            }
            Err(error) => {
                tracing::warn!(topic = %source.topic, partition = %source.partition, %error, "a checkpoint could not be appended; it is tried again")
            }
        }
    }
}

type StateEnd = (HashMap<u128, Present>, Option<StateMark>);

/// The state's present images and its last checkpoint.
async fn read_state(source: &PartitionSource, topic: &str) -> Result<StateEnd, StateError> {
    let bounds = source.log.bounds(topic, source.partition).await?;
    let mut next = bounds.first;
    let mut present = HashMap::new();
    let mut uncommitted: Vec<(u128, Option<Present>)> = Vec::new();
    let mut last = None;
    while next < bounds.next {
        let batch = source.log.read(topic, source.partition, next, READ_BYTES, Duration::ZERO).await?;
        if batch.next == next {
            break;
        }
        next = batch.next;
        for stored in batch.records {
            if let Some(found) = records::read_checkpoint(&stored.record) {
                last = Some(found);
                for (key, image) in uncommitted.drain(..) {
                    match image {
                        Some(image) => present.insert(key, image),
                        None => present.remove(&key),
                    };
                }
                continue;
            }
            let Some(key) = stored.record.key.as_deref() else { continue };
            let image = match stored.record.value.as_deref() {
                None => None,
                Some(value) => Some(read_present(source, value, stored.offset).await?),
            };
            uncommitted.push((hash128(key), image));
        }
    }
    Ok((present, last))
}

async fn read_present(source: &PartitionSource, value: &[u8], offset: Offset) -> Result<Present, StateError> {
    let (schema, _) = framing::unframe(value).unwrap_or_default();
    let (codec, datum) = source.decoder(value).await?;
    let image = hash128(codec.decode_only(datum)?.after.unwrap_or_default());
    Ok(Present { image, schema, record: Some(offset) })
}

#[cfg(test)]
mod tests;

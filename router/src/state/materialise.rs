//! The materialiser of one partition: folds counted events into the state topic, in fenced commits.
//!
//! Owns the order *fence first, then read the last checkpoint, then continue*; the comparison of each event's
//! `before` with the state; and the checkpoints in the log.

use std::sync::Arc;
use std::time::Duration;

use event_log::{CommitError, ReadError};
use reading::chunk::Item;
use reading::error::ReaderError;
use reading::fold::Fold;
use reading::located::LocatedChange;
use reading::source::PartitionSource;
use schemas::avro::binary::DatumError;
use schemas::avro::located::Located;
use schemas::avro::resolution::resolve_datum;
use schemas::change::ChangeCodec;
use schemas::digest::hash128;
use schemas::ids::Offset;
use schemas::limits::CHECKPOINT_EVERY_CHANGES;
use schemas::marks::{self, Checkpoint, Resync};
use schemas::position::EventPosition;
use schemas::record::{Kind, Record};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::contents::{Contents, Present};
use super::group::{Blocks, Group, Images};
use super::records::{self, StateMark};
use super::scan::ScanError;
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

/// Why the materialiser cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An event that could be judged a moment ago.
    #[error(transparent)]
    Datum(#[from] DatumError),
}

/// The materialiser of one partition.
pub struct Materialiser {
    feed: Arc<Feed>,
    tenure: Arc<Tenure>,
    follower: Follower,
    pub(super) contents: Contents,
    state: StateWatch,
    /// See [`StateMark::overtaken`].
    overtaken: Option<Offset>,
    since_checkpoint: u64,
    /// When a checkpoint was last written, or found unnecessary.
    last_look: Instant,
    last_checkpoint: Instant,
    last_resync: Option<Instant>,
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
        let bounds = source.bounds().await?;
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

impl Materialiser {
    /// Begins where the state ends; the tenure has fenced earlier writers already.
    pub async fn stand(feed: Arc<Feed>, tenure: Arc<Tenure>, state: StateWatch) -> Result<Self, StateError> {
        let (contents, last) = Contents::read(feed.source().clone(), state.topic().to_owned()).await?;
        let mut overtaken = last.as_ref().and_then(|mark| mark.overtaken);
        let RestoredState { mut fold, mut position, is_overtaken } =
            RestoredState::at(feed.source(), last).await?;
        if is_overtaken {
            // The feed may have counted on since before the loss: no reader of ours stands behind it.
            let tail = feed.tail();
            (position, fold) = (tail.next, tail.fold.clone());
            overtaken = Some(position);
        }
        // Everything must be in the state.
        let follower = Follower::at(Arc::clone(&feed), fold, position).leading();
        let now = Instant::now();
        let mut materialiser = Self {
            feed,
            tenure,
            follower,
            contents,
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
            if due.is_some_and(|due| due <= Instant::now()) {
                self.write(std::mem::take(&mut group)).await?;
                continue;
            }
            let look = self.last_look + CHECKPOINT_EVERY;
            match tokio::time::timeout_at(due.unwrap_or(look), tail.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) if due.is_some() => {}
                Err(_) => {
                    self.checkpoint_when_due().await;
                    self.contents.delete_when_due().await;
                }
            }
        }
    }

    /// Takes the available chunks into a group, until it is full. They are taken as they come: the tail keeps few.
    pub(super) async fn gather(&mut self, group: &mut Group) -> Result<(), StateError> {
        while !group.is_full()
            && let Some(chunk) = self.follower.next().await?
        {
            group.begun.get_or_insert_with(Instant::now);
            self.take(&chunk, group).await?;
        }
        Ok(())
    }

    /// Commits a group, and as much cleaning as its events pay for.
    pub(super) async fn write(&mut self, group: Group) -> Result<(), StateError> {
        self.since_checkpoint += group.events();
        if self.overtaken.is_some_and(|before| self.follower.fold().opened >= Some(before)) {
            self.overtaken = None;
        }
        let mut blocks = Blocks::default();
        group.put_into(&mut blocks);
        self.contents.clean(&group, &mut blocks).await?;
        let differing = group.differing;
        // It may be large, and a commit takes a while.
        drop(group);
        self.commit(blocks.finish()).await?;
        self.tell();
        if let Some(position) = differing {
            self.order_resync(position).await;
        }
        self.checkpoint_when_due().await;
        self.contents.delete_when_due().await;
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
        group.put(key, event);
        self.contents.take(key, event);
        Ok(())
    }

    /// Whether an event's `before` is what the state holds. An image in another schema is first resolved into the
    /// event's.
    async fn fits(
        &mut self,
        key: u128,
        event: &LocatedChange<'_>,
        pending: &Group,
    ) -> Result<bool, StateError> {
        let (known, before) = match (self.contents.get(key), event.change.images.before.map(Located::bytes)) {
            (None, None) => return Ok(true),
            (Some(known), Some(before)) => (*known, before),
            _ => return Ok(false),
        };
        if known.image == hash128(before) {
            return Ok(true);
        }
        if known.schema == event.schema {
            return Ok(false);
        }
        let Some((codec, image)) = self.known_image(key, known, pending).await? else {
            return Ok(false);
        };
        let resolved = resolve_datum(codec.subject(), event.codec().subject(), &image);
        Ok(resolved.is_ok_and(|resolved| resolved == before))
    }

    /// A key's image, which waits in the group or stands in the state topic, and the codec of its schema.
    async fn known_image(
        &mut self,
        key: u128,
        known: Present,
        pending: &Group,
    ) -> Result<Option<(Arc<ChangeCodec>, Vec<u8>)>, StateError> {
        if let Some((schema, datum)) = pending.last(key) {
            let codec = self.feed.source().codecs.codec(schema).await.map_err(ReaderError::from)?;
            let image = codec.decode_all(datum)?.after.map(<[u8]>::to_vec);
            return Ok(image.map(|image| (codec, image)));
        }
        Ok(self.contents.image(known).await?)
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

    /// Commits blocks and the checkpoint after them, at once.
    async fn commit(&mut self, images: Vec<Images>) -> Result<(), StateError> {
        let partition = self.feed.source().partition;
        let log_checkpoint = self.follower.fold().checkpoint;
        let first = self.contents.first();
        let link = self.contents.link(images.len());
        let overtaken = self.overtaken;
        let mark = StateMark { checkpoint: self.checkpoint(), log_checkpoint, first, link, overtaken };
        let (mut batch, keys): (Vec<Record>, Vec<Vec<u128>>) =
            images.into_iter().map(|images| (images.record, images.keys)).unzip();
        let end = records::checkpoint(&mark);
        let bytes = end.size();
        batch.push(end);
        let committed = self.tenure.commit(self.state.topic(), partition, batch).await?;
        self.contents.committed(committed.last, bytes, &keys);
        self.state.committed(committed, mark);
        Ok(())
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
            Ok(_) => self.last_resync = Some(Instant::now()),
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
            self.last_look = Instant::now();
        }
    }

    /// A checkpoint in the log only helps readers: a failure costs time, and a repeat says the same.
    async fn checkpoint_log(&mut self) {
        let source = self.feed.source();
        let record = marks::record(Kind::Checkpoint, &self.checkpoint().encode());
        match source.log.append(&source.topic, source.partition, vec![record]).await {
            Ok(_) => {
                self.since_checkpoint = 0;
                self.last_look = Instant::now();
                self.last_checkpoint = self.last_look;
            }
            Err(error) => {
                tracing::warn!(topic = %source.topic, partition = %source.partition, %error, "a checkpoint could not be appended; it is tried again")
            }
        }
    }
}

#[cfg(test)]
mod tests;

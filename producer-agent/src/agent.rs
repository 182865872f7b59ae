//! One channel's agent: takes files, keeps images and outbox in step, sends.
//!
//! Owns the order of things: events are synced in the outbox first, then folded into the images with the outbox
//! position that they reflect; a file is "taken" only after both. The guard stands before the first event.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::clock::since_boot;
use platform::segments::SegmentError;
use platform::segments::checked_file;
use platform::segments::disk::Disk;
use schemas::avro::binary::DatumError;
use schemas::avro::resolution::{ResolveError, resolve_datum};
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{Epoch, LogId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::emit::{Emitter, Origin, looked_at_now};
use crate::image::{Fold, ImageError, ImageStore};
use crate::outbox::{Content, Outbox, OutboxError, SharedOutbox, lock};
use crate::source::file::drop_folder::DropError;
use crate::source::file::table::TableError;
use crate::source::items::{Item, ItemReader, ItemResult};
use crate::source::reader::FitError;

const IDENTITY_KIND: &[u8; 4] = b"iden";
/// Events that share one sync of the outbox.
const GROUP: usize = 1_000;
/// Single changes leave the images unsynced for so long: a sync costs more than all else that is done for one.
const SYNC_IMAGES_EVERY: Duration = Duration::from_secs(1);

/// Why a file was not taken, or the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The file.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The file and the channel.
    #[error("{file}: {error}")]
    Fit {
        file: String,
        /// What does not fit.
        error: FitError,
    },
    /// The folder that files are dropped into.
    #[error(transparent)]
    Drop(#[from] DropError),
    /// It is not whole, or nothing in it can be relied on.
    #[error("{file}: {problem}; nothing of it was taken: correct it and drop it again")]
    Unreliable {
        file: String,
        /// What was seen, and where.
        problem: String,
    },
    /// The images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A file of the agent's folder.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// An image cannot be brought to the new schema.
    #[error("an image: {0}")]
    Resolve(#[from] ResolveError),
    /// An image cannot be read.
    #[error("an image cannot be read: {0}")]
    Datum(#[from] DatumError),
    /// The folder is another channel's.
    #[error(
        "{path} belongs to channel {found}, log {log}; this agent is for {wanted}. Give each channel its own folder"
    )]
    OtherChannel {
        /// The folder.
        path: PathBuf,
        /// Its channel.
        found: String,
        log: LogId,
        /// This channel.
        wanted: String,
    },
    /// The folder lost its identity but not its contents, or the other way.
    #[error("{path}: {problem}; the agent must reopen")]
    Doubtful {
        /// The folder.
        path: PathBuf,
        /// What was seen.
        problem: String,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl AgentError {
    /// Whether the same may succeed later without anybody repairing the agent: the disk did not take it.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Segment(SegmentError::Io { .. })
                | Self::Outbox(OutboxError::Full { .. } | OutboxError::Segment(SegmentError::Io { .. }))
        )
    }

    /// Whether it is the file that is wrong, and another one may be taken.
    pub const fn is_of_the_file(&self) -> bool {
        matches!(self, Self::Table(_) | Self::Fit { .. } | Self::Unreliable { .. })
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityFile {
    channel: String,
    log_id: LogId,
    /// Images that reflect less are none: the last reopen took them from the channel's state, and the outbox alone
    /// cannot make them again.
    #[serde(default)]
    images_from: u64,
}

/// What an agent of one channel is opened with.
pub struct Opening {
    /// Its folder.
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub images: Box<dyn ImageStore>,
    /// The channel's declaration.
    pub channel: Channel,
    /// The id of the channel's log.
    pub log_id: LogId,
    /// The subject's schema that files are read into.
    pub schema: AvroSchema,
}

/// One channel's agent.
pub struct Agent {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    channel: Channel,
    log_id: LogId,
    codec: ChangeCodec,
    images: Box<dyn ImageStore>,
    outbox: SharedOutbox,
    appended: watch::Sender<u64>,
    folded: Arc<AtomicU64>,
    /// One source at a time: a before image must be what the last event left.
    taking: Mutex<()>,
    /// When the images were synced last, since the machine's start.
    synced: Mutex<Duration>,
}

impl Agent {
    /// Opens the agent's folder, or begins one there; folds into the images what the outbox is ahead. Images that
    /// do not fit the outbox, and a reopen that did not come to its end, are [`AgentError::Doubtful`].
    pub fn open(opening: Opening) -> Result<Self, AgentError> {
        let dir = opening.dir.clone();
        let (agent, images_from) = Self::open_any(opening)?;
        let (first, next) = {
            let outbox = lock(&agent.outbox);
            (outbox.first_position(), outbox.next_position())
        };
        let folded = agent.images.position()?;
        if reopen::marker(agent.disk.as_ref(), &dir)?.is_some() {
            return Err(AgentError::Doubtful {
                path: dir,
                problem: "an earlier reopen did not end".to_owned(),
            });
        }
        if lock(&agent.outbox).batch_schema() != agent.codec.batch_schema().text() {
            let problem = "the subject's schema is another than the images' and the outbox's".to_owned();
            return Err(AgentError::Doubtful { path: dir, problem });
        }
        if images_from.is_some_and(|from| folded < first.max(from)) || folded > next {
            let problem = format!("the images reflect position {folded}, the outbox holds {first} to {next}");
            return Err(AgentError::Doubtful { path: dir, problem });
        }
        agent.catch_up(folded)?;
        Ok(agent)
    }

    /// Opens the folder as it is, to be reopened.
    pub fn open_doubtful(opening: Opening) -> Result<Self, AgentError> {
        Self::open_any(opening).map(|(agent, _)| agent)
    }

    /// The agent, and the position that its images must reflect at least; `None` in a new folder.
    fn open_any(opening: Opening) -> Result<(Self, Option<u64>), AgentError> {
        let Opening { dir, disk, images, channel, log_id, schema } = opening;
        disk.create_dir(&dir).map_err(|error| SegmentError::Io { path: dir.clone(), error })?;
        let images_from = check_identity(disk.as_ref(), &dir, &channel, log_id)?;
        let codec = ChangeCodec::new(&schema)?;
        let epoch = Epoch::new(platform::random::id()?);
        let outbox = Outbox::open(Arc::clone(&disk), &dir.join("outbox"), epoch, &codec, channel.partitions)?;
        let next = outbox.next_position();
        let folded = images.position()?;
        let agent = Self {
            dir,
            disk,
            channel,
            log_id,
            codec,
            images,
            outbox: Arc::new(Mutex::new(outbox)),
            appended: watch::Sender::new(next),
            folded: Arc::new(AtomicU64::new(folded)),
            taking: Mutex::new(()),
            synced: Mutex::new(since_boot()),
        };
        Ok((agent, images_from))
    }

    /// The outbox, for the sender.
    pub fn outbox(&self) -> SharedOutbox {
        Arc::clone(&self.outbox)
    }

    /// Moves when the outbox grows.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// The position up to which the images surely reflect the outbox.
    pub fn folded(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.folded)
    }

    /// The subject's schema that files are read into.
    pub fn schema(&self) -> &AvroSchema {
        self.codec.subject()
    }

    /// How many rows the register has, as far as the agent knows.
    pub fn register_size(&self) -> Result<u64, AgentError> {
        Ok(self.images.count()?)
    }

    /// After a crash the outbox may be ahead of the images.
    fn catch_up(&self, from: u64) -> Result<(), AgentError> {
        let mut folds = Vec::new();
        let mut wrong = None;
        let mut next = from;
        lock(&self.outbox).for_each(from, &mut |placed| {
            next = placed.position + 1;
            if let Content::Change { key, datum, .. } = placed.entry.content {
                match self.codec.decode_all(&datum) {
                    Ok(change) => folds.push(Fold { key, after: change.after.map(<[u8]>::to_vec) }),
                    Err(error) => wrong = Some(error),
                }
            }
            wrong.is_none()
        })?;
        if let Some(error) = wrong {
            return Err(error.into());
        }
        self.images.apply(&folds, next)?;
        self.sync_images(next)
    }

    fn sync_images(&self, position: u64) -> Result<(), AgentError> {
        self.images.sync()?;
        self.folded.store(position, Ordering::Release);
        *self.synced.lock().unwrap_or_else(PoisonError::into_inner) = since_boot();
        Ok(())
    }

    /// A crash before it makes the images again from the outbox.
    fn sync_images_when_due(&self) -> Result<(), AgentError> {
        let is_due = {
            let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            since_boot().saturating_sub(*synced) >= SYNC_IMAGES_EVERY
        };
        if is_due { self.sync_images(self.images.position()?) } else { Ok(()) }
    }

    /// Brings the images to a new version of the subject's schema: the next file is compared in it.
    pub fn use_schema(&mut self, schema: &AvroSchema) -> Result<(), AgentError> {
        if self.codec.subject() == schema {
            return Ok(());
        }
        let position = self.images.position()?;
        let mut folds = Vec::new();
        let mut wrong = None;
        self.images.for_each(&mut |key, image| {
            match resolve_datum(self.codec.subject(), schema, image) {
                Ok(after) => folds.push(Fold { key: key.to_owned(), after: Some(after) }),
                Err(error) => wrong = Some(error),
            }
            wrong.is_none()
        })?;
        if let Some(error) = wrong {
            return Err(error.into());
        }
        for group in folds.chunks(GROUP) {
            self.images.apply(group, position)?;
        }
        self.sync_images(position)?;
        self.codec = ChangeCodec::new(schema)?;
        Ok(())
    }

    /// Takes single changes in order; a result for each, once all that were taken are in the outbox. `about_to_take` is
    /// called before the first that is not refused.
    pub fn take_items(
        &self,
        items: Vec<Result<Item, String>>,
        about_to_take: impl FnOnce() -> Result<(), DropError>,
    ) -> Result<Vec<ItemResult>, AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = ItemReader::new(self.schema(), &self.channel.key);
        let mut emitter = Emitter::new(self, Origin::Http);
        let mut results = Vec::with_capacity(items.len());
        let mut about_to_take = Some(about_to_take);
        for item in items {
            let read = item.and_then(|item| reader.as_ref().map_err(Clone::clone)?.read(item));
            results.push(match read {
                Err(reason) => ItemResult::Refused { reason },
                Ok((key, after)) => {
                    about_to_take.take().map_or(Ok(()), |about_to_take| about_to_take())?;
                    match emitter.put(&key, after, 0)? {
                        true => ItemResult::Taken { key },
                        false => ItemResult::Unchanged { key },
                    }
                }
            });
        }
        emitter.finish_items()?;
        Ok(results)
    }

    /// The source says that nothing else has changed up to now.
    pub fn take_freshness(&self) -> Result<(), AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        // Of an empty register nothing is said: in a log that is new, it may just not be there yet (ADR 0020).
        if self.images.count()? == 0 {
            return Ok(());
        }
        Emitter::new(self, Origin::Http).finish(Some(looked_at_now()))
    }
}

impl IdentityFile {
    fn new(channel: &Channel, log_id: LogId, images_from: u64) -> Self {
        Self { channel: channel.name.to_string(), log_id, images_from }
    }

    fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), AgentError> {
        let doubtful = |problem: String| AgentError::Doubtful { path: dir.to_owned(), problem };
        let bytes = serde_json::to_vec(self).map_err(|e| doubtful(e.to_string()))?;
        Ok(checked_file::write(disk, &dir.join("identity"), IDENTITY_KIND, &bytes)?)
    }
}

/// From where on the folder's images are whole; `None` where it has not been this channel's before.
fn check_identity(
    disk: &dyn Disk,
    dir: &Path,
    channel: &Channel,
    log_id: LogId,
) -> Result<Option<u64>, AgentError> {
    let doubtful = |problem: String| AgentError::Doubtful { path: dir.to_owned(), problem };
    let Some(bytes) = checked_file::read(disk, &dir.join("identity"), IDENTITY_KIND)? else {
        return IdentityFile::new(channel, log_id, 0).write(disk, dir).map(|()| None);
    };
    let found: IdentityFile = serde_json::from_slice(&bytes).map_err(|e| doubtful(e.to_string()))?;
    if found.channel == channel.name.as_str() && found.log_id == log_id {
        return Ok(Some(found.images_from));
    }
    Err(AgentError::OtherChannel {
        path: dir.to_owned(),
        found: found.channel,
        log: found.log_id,
        wanted: format!("{}, log {log_id}", channel.name),
    })
}

mod emit;
pub mod reopen;
mod take;
#[cfg(test)]
mod tests;

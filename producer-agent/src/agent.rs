//! One channel's agent: takes files, keeps images and outbox in step, sends.
//!
//! Owns the order of things: events are synced in the outbox first, then applied to the images with the outbox position
//! that they reflect; the images are synced behind that. The guard is asked before the first event.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::clock::since_boot;
use platform::segments::SegmentError;
use platform::segments::disk::Disk;
use schemas::avro::binary::DatumError;
use schemas::avro::resolution::{ResolveError, resolve_datum};
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{Epoch, LogId};
use schemas::key::KeyError;
use tokio::sync::watch;

use crate::folder::{self, FolderError};
use crate::image::{ImageChange, ImageError, ImageStore};
use crate::outbox::{Content, Outbox, OutboxError, SharedOutbox, lock};
use crate::source::file::drop_folder::DropError;
use crate::source::port::SourceError;
use crate::take::spool::Spool;
use crate::take::survey::SurveyError;

/// After single changes the images are synced only this often: a sync costs more than all other work for one change.
const SYNC_IMAGES_EVERY: Duration = Duration::from_secs(1);

/// Why a file was not taken, or the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The source is wrong; another file may be taken.
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A file of the agent's folder.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A row of the channel's state has no key.
    #[error("the channel's state: the channel's key: {0}")]
    Key(#[from] KeyError),
    #[error("an image cannot be converted to the new schema: {0}")]
    Resolve(#[from] ResolveError),
    #[error("an image cannot be read: {0}")]
    Datum(#[from] DatumError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An earlier error of the images' store: the agent begins anew.
    #[error("the images' store has failed; nothing is taken until the agent has begun anew with it")]
    LostImages,
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl From<SurveyError> for AgentError {
    fn from(error: SurveyError) -> Self {
        match error {
            SurveyError::Image(error) => error.into(),
            SurveyError::Segment(error) => error.into(),
        }
    }
}

impl AgentError {
    /// Whether a later attempt may succeed without a repair of the agent: the disk or the outbox took no more, or the agent begins
    /// anew.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Segment(SegmentError::Io { .. })
                | Self::Image(ImageError::Full { .. } | ImageError::TooManyFiles { .. })
                | Self::LostImages
                | Self::Outbox(OutboxError::Full { .. } | OutboxError::Segment(SegmentError::Io { .. }))
        )
    }

    /// Whether the images' disk was full: then the opened agent is of no use any more, and must begin anew.
    pub const fn is_of_a_full_store(&self) -> bool {
        matches!(self, Self::Image(ImageError::Full { .. }))
    }

    /// Whether the file is wrong, and another one may be taken.
    pub const fn is_of_the_file(&self) -> bool {
        matches!(self, Self::Source(_))
    }
}

/// The parts that open an agent of one channel.
pub struct Opening {
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub images: Box<dyn ImageStore>,
    pub channel: Channel,
    pub log_id: LogId,
    /// The subject's schema that files are read into.
    pub schema: AvroSchema,
}

pub struct Agent {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    channel: Channel,
    log_id: LogId,
    codec: ChangeCodec,
    images: Box<dyn ImageStore>,
    outbox: SharedOutbox,
    appended: watch::Sender<u64>,
    /// Held while a source is taken: a before image must be the result of the last event.
    taking: Mutex<()>,
    /// Time of the last sync of the images, since the machine's start.
    synced: Mutex<Duration>,
    /// Whether the images' store failed: nothing more is taken before the agent begins anew.
    lost_images: AtomicBool,
}

impl Agent {
    /// Opens the agent's folder, or begins one there; applies to the images the entries that they lack. Images or a
    /// schema that do not fit the outbox, and an unfinished reopen, are [`FolderError::Doubtful`].
    pub fn open(opening: Opening) -> Result<Self, AgentError> {
        let dir = opening.dir.clone();
        let (agent, images_from) = Self::open_any(opening)?;
        let (first, next) = {
            let outbox = lock(&agent.outbox);
            (outbox.first_position(), outbox.next_position())
        };
        let folded = agent.images.position()?;
        if reopen::marker(agent.disk.as_ref(), &dir)?.is_some() {
            return Err(FolderError::doubtful(&dir, "an earlier reopen did not end".to_owned()).into());
        }
        if lock(&agent.outbox).batch_schema() != agent.codec.batch_schema().text() {
            let problem =
                "the subject's schema differs from the schema of the images and the outbox".to_owned();
            return Err(FolderError::doubtful(&dir, problem).into());
        }
        if images_from.is_some_and(|from| folded < first.max(from)) || folded > next {
            let problem = format!("the images reflect position {folded}, the outbox holds {first} to {next}");
            return Err(FolderError::doubtful(&dir, problem).into());
        }
        agent.catch_up(folded)?;
        Ok(agent)
    }

    /// Opens a folder as it is, for a reopen.
    pub fn open_doubtful(opening: Opening) -> Result<Self, AgentError> {
        Self::open_any(opening).map(|(agent, _)| agent)
    }

    /// Opens unchecked; returns the least position that the images must reflect, `None` in a new folder.
    fn open_any(opening: Opening) -> Result<(Self, Option<u64>), AgentError> {
        let Opening { dir, disk, images, channel, log_id, schema } = opening;
        disk.create_dir(&dir).map_err(|error| SegmentError::Io { path: dir.clone(), error })?;
        let images_from = folder::enter(disk.as_ref(), &dir, &channel, log_id)?;
        Spool::remove_left(disk.as_ref(), &dir)?;
        let codec = ChangeCodec::new(&schema)?;
        let epoch = Epoch::new(platform::random::id()?);
        let outbox = Outbox::open(Arc::clone(&disk), &dir.join("outbox"), epoch, &codec, channel.partitions)?;
        let next = outbox.next_position();
        let agent = Self {
            dir,
            disk,
            channel,
            log_id,
            codec,
            images,
            outbox: Arc::new(Mutex::new(outbox)),
            appended: watch::Sender::new(next),
            taking: Mutex::new(()),
            synced: Mutex::new(since_boot()),
            lost_images: AtomicBool::new(false),
        };
        Ok((agent, images_from))
    }

    /// The outbox, for the sender.
    pub fn outbox(&self) -> SharedOutbox {
        Arc::clone(&self.outbox)
    }

    /// Changes when the outbox grows.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// The position up to which the images surely reflect the outbox.
    pub fn folded(&self) -> Arc<AtomicU64> {
        self.images.synced()
    }

    /// The subject's schema that files are read into.
    pub fn schema(&self) -> &AvroSchema {
        self.codec.subject()
    }

    /// The number of rows in the register, according to the images.
    pub fn register_size(&self) -> Result<u64, AgentError> {
        Ok(self.images.count()?)
    }

    /// Whether nothing more can be taken before the agent begins anew: the images' store failed.
    pub fn has_lost_its_images(&self) -> bool {
        self.lost_images.load(Ordering::Acquire)
    }

    /// Runs `take` while no other source is taken; remembers an error after which nothing more can be taken.
    fn alone<T>(&self, take: impl FnOnce() -> Result<T, AgentError>) -> Result<T, AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_lost_its_images() {
            return Err(AgentError::LostImages);
        }
        take().inspect_err(|error| {
            if matches!(error, AgentError::Image(_)) {
                self.lost_images.store(true, Ordering::Release);
            }
        })
    }

    /// After a crash the outbox may be ahead of the images.
    fn catch_up(&self, from: u64) -> Result<(), AgentError> {
        let mut applied = Ok(());
        lock(&self.outbox).for_each(from, &mut |placed| {
            applied = self.apply_again(&placed.entry.content, placed.position + 1);
            applied.is_ok()
        })?;
        applied?;
        Ok(self.images.sync()?)
    }

    /// Applies what an entry of the outbox changed.
    fn apply_again(&self, content: &Content, next: u64) -> Result<(), AgentError> {
        let changes = match content {
            Content::Block(block) => self.codec.decode_block(block.datum())?,
            Content::Freshness(_) => Vec::new(),
        };
        let changes = changes.iter().map(|found| &found.change);
        let changes = changes.map(|change| ImageChange { key: change.key, after: change.after });
        Ok(self.images.apply(&changes.collect::<Vec<_>>(), next)?)
    }

    /// Single changes say nothing about the others, and come often: so the images are synced from time to time. After a crash
    /// before that, `catch_up` repeats the changes.
    fn sync_images_when_due(&self) -> Result<(), AgentError> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if since_boot().saturating_sub(*synced) >= SYNC_IMAGES_EVERY {
            self.images.sync_behind()?;
            *synced = since_boot();
        }
        Ok(())
    }

    /// To be called from time to time: the last changes do not wait for others to be synced, and what went wrong behind the
    /// taking is found.
    pub fn keep_images(&self) -> Result<(), AgentError> {
        self.alone(|| match self.images.position()? == self.images.synced().load(Ordering::Acquire) {
            true => Ok(()),
            false => self.sync_images_when_due(),
        })
    }

    /// Converts the images to a new version of the subject's schema, for the comparison with the next file.
    pub fn use_schema(&mut self, schema: &AvroSchema) -> Result<(), AgentError> {
        if self.codec.subject() == schema {
            return Ok(());
        }
        let position = self.images.position()?;
        let mut resolved = Vec::new();
        let mut wrong = None;
        self.images.for_each(&mut |key, image| {
            match resolve_datum(self.codec.subject(), schema, image) {
                Ok(after) => resolved.push((key.to_owned(), after)),
                Err(error) => wrong = Some(error),
            }
            wrong.is_none()
        })?;
        if let Some(error) = wrong {
            return Err(error.into());
        }
        let of = |(key, after)| ImageChange { key, after: Some(after) };
        let changes: Vec<_> =
            resolved.iter().map(|(key, after)| of((key.as_str(), after.as_slice()))).collect();
        self.images.apply(&changes, position)?;
        self.images.sync()?;
        self.codec = ChangeCodec::new(schema)?;
        Ok(())
    }
}

mod emit;
pub mod reopen;
mod take;
#[cfg(test)]
mod tests;
mod wanted;
mod writer;

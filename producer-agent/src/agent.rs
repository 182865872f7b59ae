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

use self::emit::Emitter;
use crate::image::{Fold, ImageError, ImageStore};
use crate::outbox::{Content, Outbox, OutboxError, SharedOutbox, lock};
use crate::source::changes::Changes;
use crate::source::compare::{Counts, FitError, Parked, Read, RowReader, Survey};
use crate::source::items::{Item, ItemReader, ItemResult};
use crate::source::table::{Table, TableError, TableFormat};

const IDENTITY_KIND: &[u8; 4] = b"iden";
/// Events that share one sync of the outbox.
const GROUP: usize = 1_000;
/// Single changes leave the images unsynced for so long: a sync costs more than all else that is done for one.
const SYNC_IMAGES_EVERY: Duration = Duration::from_secs(1);

/// When a file is held for a person to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// Deletes, in percent of the register, above which a file is held.
    pub max_delete_percent: u32,
    /// Updates, in percent of the register, above which a file is held.
    pub max_change_percent: u32,
}

impl Default for Guard {
    /// A tenth gone or half changed at once is an accident of publication more often than not.
    fn default() -> Self {
        Self { max_delete_percent: 10, max_change_percent: 50 }
    }
}

impl Guard {
    /// Why a file is held; `None` when it may pass.
    pub fn holds(&self, counts: &Counts, register: u64) -> Option<String> {
        let over = |count: u64, percent: u32| count * 100 > register * u64::from(percent);
        if over(counts.delete, self.max_delete_percent) {
            return Some(format!(
                "it would delete {} of {register} rows, more than {} %",
                counts.delete, self.max_delete_percent
            ));
        }
        if over(counts.update, self.max_change_percent) {
            return Some(format!(
                "it would change {} of {register} rows, more than {} %",
                counts.update, self.max_change_percent
            ));
        }
        None
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// Whether it is the whole register, or changes only.
    pub is_full: bool,
    /// How many rows did what.
    pub counts: Counts,
    /// Why the guard held it, or would have.
    pub guard: Option<String>,
    /// Whether its changes are in the outbox.
    pub taken: bool,
    /// Why its deletes were held.
    pub deletes_held: Option<String>,
    /// Columns that stand for no field.
    pub ignored_columns: Vec<String>,
    /// The rows set aside.
    pub parked: Vec<Parked>,
}

/// Why a file was not taken, or the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The file.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The file and the channel.
    #[error("{file}: {error}")]
    Fit {
        /// The file.
        file: String,
        /// What does not fit.
        error: FitError,
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
        /// Its log.
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
    /// Whether the same may succeed later without anybody mending the agent: the disk did not take it.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Segment(SegmentError::Io { .. })
                | Self::Outbox(OutboxError::Full { .. } | OutboxError::Segment(SegmentError::Io { .. }))
        )
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
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The images.
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
        let (next, folded) = (outbox.next_position(), images.position()?);
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

    /// Takes a full file: compares it with the images, asks the guard, and puts its changes into the outbox.
    /// `accepted` is a person's word that overrides the guard; `guard` is `None` where nothing is to be held.
    pub fn take_file(
        &self,
        path: &Path,
        format: &TableFormat,
        guard: Guard,
        accepted: bool,
    ) -> Result<FileReport, AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let table = Table::open(path, format)?;
        let fit = |error| AgentError::Fit { file: file.clone(), error };
        let reader = RowReader::new(self.schema(), &self.channel.key, table.header()).map_err(fit)?;
        let operation = format.operation_column.as_ref();
        if let Some(column) =
            operation.and_then(|name| table.header().iter().position(|column| column == name))
        {
            return self.take_changes(table, &reader, column, (guard, accepted), &file);
        }
        let survey = Survey::of(table, &reader, self.images.as_ref())?;
        let held = guard.holds(&survey.counts, self.images.count()?);
        let taken = held.is_none() || accepted;
        let report = FileReport {
            file: file.clone(),
            is_full: true,
            counts: survey.counts,
            guard: held,
            taken,
            deletes_held: survey.deletes_held.clone(),
            ignored_columns: reader.ignored().to_vec(),
            parked: survey.parked.clone(),
        };
        if taken {
            let mut emitter = Emitter::new(self, &file);
            for row in Table::open(path, format)? {
                if let Read::Good { key, datum } = reader.read(&row)
                    && survey.changes(key.as_str())
                {
                    emitter.put(key.as_str(), Some(datum), row.line)?;
                }
            }
            if survey.deletes_held.is_none() {
                for key in self.absent(&survey)? {
                    emitter.put(&key, None, 0)?;
                }
            }
            emitter.finish()?;
        }
        Ok(report)
    }

    /// Takes a change file: each row is one change, in order; a key may stand there again and again.
    fn take_changes(
        &self,
        table: Table,
        reader: &RowReader,
        column: usize,
        judge: (Guard, bool),
        file: &str,
    ) -> Result<FileReport, AgentError> {
        let (guard, accepted) = judge;
        let ignored_columns = reader.ignored().to_vec();
        let changes = Changes::read(table, reader, column, self.images.as_ref())?;
        let held = guard.holds(&changes.counts, self.images.count()?);
        let taken = held.is_none() || accepted;
        if taken {
            let mut emitter = Emitter::new(self, file);
            for (line, key, after) in changes.rows {
                emitter.put(&key, after, line)?;
            }
            emitter.finish()?;
        }
        Ok(FileReport {
            file: file.to_owned(),
            is_full: false,
            counts: changes.counts,
            guard: held,
            taken,
            deletes_held: None,
            ignored_columns,
            parked: changes.parked,
        })
    }

    /// Takes single changes in order; a result for each, once all that were taken are in the outbox.
    pub fn take_items(&self, items: Vec<Result<Item, String>>) -> Result<Vec<ItemResult>, AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = ItemReader::new(self.schema(), &self.channel.key);
        let mut emitter = Emitter::of(self, "http", "");
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            results.push(match item.and_then(|item| reader.read(item)) {
                Err(reason) => ItemResult::Refused { reason },
                Ok((key, after)) => match emitter.put(&key, after, 0)? {
                    true => ItemResult::Taken { key },
                    false => ItemResult::Unchanged { key },
                },
            });
        }
        emitter.finish_items()?;
        Ok(results)
    }

    /// The source says that nothing else has changed up to now.
    pub fn take_freshness(&self) -> Result<(), AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        Emitter::of(self, "http", "").finish()
    }

    fn absent(&self, survey: &Survey) -> Result<Vec<String>, AgentError> {
        let mut keys = Vec::new();
        self.images.for_each(&mut |key, _| {
            if survey.is_absent(key) {
                keys.push(key.to_owned());
            }
            true
        })?;
        Ok(keys)
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
#[cfg(test)]
mod tests;

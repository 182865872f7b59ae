//! The intake: from the drop folder and the local endpoint to the agent.
//!
//! Owns the loop over dropped files: which file is next, what becomes of it and what is reported. One bad file never
//! stops the rest. A taken file is moved only after all of it is safe in the outbox.

use std::sync::Arc;
use std::time::Duration;

use platform::segments::disk::RealDisk;
use platform::shutdown::Tasks;

use crate::agent::{Agent, AgentError};
use crate::config::ProducerConfig;
use crate::observe::Watch;
use crate::source::cells::in_quotes;
use crate::source::file::drop_folder::{DropError, DropFolder, Fate, Follows, Ready, Singles, Taking};
use crate::source::file::source::FileSource;
use crate::source::port::{Content, Source, SourceError};
use crate::start;
use crate::take::report::FileReport;

/// The most parked rows in a report; the file next to it has more.
const REPORTED_ROWS: usize = 1_000;
/// The time between two looks at the drop folder: a file that is written there can wait this long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time from a notice of a renamed file to the first look at it, and from that to the second.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Brings a registry's files and requests to one agent.
pub(crate) struct Intake<'i> {
    pub(crate) config: &'i ProducerConfig,
    pub(crate) watch: &'i Arc<Watch>,
    pub(crate) agent: Arc<Agent>,
}

/// Why the intake has ended.
pub(crate) enum IntakeEnded {
    /// The agent's memory may be wrong: it begins anew from its disk.
    BeginAnew,
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for IntakeEnded {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a file was not taken.
enum NotTaken {
    /// The file is wrong: it is refused with the reason.
    Refused(String),
    /// The agent's code failed on it: it is refused, and the agent begins anew.
    Broke(String),
    /// The disk takes no more now: the file waits.
    Waits(AgentError),
    /// The agent itself cannot continue.
    Stuck(AgentError),
}

/// Why a dropped file was not settled.
enum NotSettled {
    /// The drop folder failed: the file is tried again.
    Folder(DropError),
    Ended(IntakeEnded),
}

impl From<DropError> for NotSettled {
    fn from(error: DropError) -> Self {
        Self::Folder(error)
    }
}

/// Whether the next file may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Goes,
    /// It waits for the disk, too.
    Waits,
}

/// A file that was read, and its source or the problem.
struct ReadFile {
    taking: Taking,
    source: Result<FileSource, String>,
}

impl Intake<'_> {
    /// Takes changes at the local endpoint, and files in the drop folder.
    pub(crate) async fn run(&self, is_reopened: bool, endpoint: &Tasks) -> Result<(), IntakeEnded> {
        let folder = DropFolder::open(&self.config.drop_dir, self.config.drop.clone())?;
        // This comes first: the comparison must not undo a single change that is younger than the register.
        if is_reopened {
            self.compare_again(&folder).await?;
            start::end_comparison(&RealDisk, &self.config.data_dir)?;
        }
        if let Some(http) = &self.config.http {
            let singles = Singles::beside(&self.config.drop_dir);
            let agent = Arc::clone(&self.agent);
            crate::endpoint::listen(http, agent, singles, Arc::clone(self.watch), endpoint).await?;
        }
        self.watch_folder(folder).await
    }

    /// The last step of a reopen: compares the last whole register once more with the channel's state.
    async fn compare_again(&self, folder: &DropFolder) -> Result<(), IntakeEnded> {
        let Some(file) = folder.last_full() else {
            tracing::warn!(
                "the agent has no whole register to compare with after the reopen; drop a whole register"
            );
            return Ok(());
        };
        let format = self.config.format.clone();
        let path = file.clone();
        match self.take(move || FileSource::open(&path, &format), false).await {
            Ok(report) => {
                tell(&report);
                if !report.taken {
                    folder.hold_copy(&file)?;
                }
            }
            Err(NotTaken::Refused(problem)) => {
                tracing::error!(%problem, "the last whole register cannot be compared again; drop a new one");
            }
            Err(NotTaken::Broke(problem)) => {
                tracing::error!(%problem, "the last whole register cannot be compared again; drop a new one");
                // What is in memory is not relied on; the agent that begins anew does not try this again.
                start::end_comparison(&RealDisk, &self.config.data_dir)?;
                return Err(IntakeEnded::BeginAnew);
            }
            Err(NotTaken::Waits(error)) if self.agent.has_lost_its_images() => {
                tracing::error!(%error, "the last whole register is compared once the agent has started anew");
                return Err(IntakeEnded::BeginAnew);
            }
            Err(NotTaken::Waits(error) | NotTaken::Stuck(error)) => return Err(error.into()),
        }
        Ok(())
    }

    async fn watch_folder(&self, mut folder: DropFolder) -> Result<(), IntakeEnded> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut notices = folder.notices();
        let mut is_put_off = false;
        loop {
            if is_put_off || !folder.has_newcomers() {
                tokio::select! {
                    biased;
                    _ = looks.tick() => {}
                    () = notices.next() => {}
                }
            }
            // Renames that come one after the other are looked at together.
            tokio::time::sleep(LOOK_AGAIN).await;
            is_put_off = false;
            // A file or a single change has met a full disk, or the images behind them have.
            if self.agent.has_lost_its_images() || !self.keeps_images().await {
                return Err(IntakeEnded::BeginAnew);
            }
            let files = match folder.ready() {
                Ok(files) => files,
                Err(error) => {
                    tracing::error!(%error, "the drop folder cannot be read; the agent makes it if it is missing, and looks again");
                    // The folder may have been removed, perhaps to be made anew.
                    if let Ok(again) = DropFolder::open(&self.config.drop_dir, self.config.drop.clone()) {
                        folder = again;
                        notices = folder.notices();
                    }
                    continue;
                }
            };
            for file in files {
                match self.dropped(&mut folder, &file).await {
                    Ok(Next::Goes) => {}
                    Ok(Next::Waits) => {
                        is_put_off = true;
                        break;
                    }
                    Err(NotSettled::Folder(error)) => {
                        tracing::error!(%error, "a dropped file waits; it is tried again");
                        is_put_off = true;
                        break;
                    }
                    Err(NotSettled::Ended(ended)) => return Err(ended),
                }
            }
        }
    }

    /// Takes one file, and settles it.
    async fn dropped(&self, folder: &mut DropFolder, file: &Ready) -> Result<Next, NotSettled> {
        let Some(ReadFile { taking, source }) = self.read(folder, file).await? else {
            return Ok(Next::Goes);
        };
        let source = match folder.check_mark(file, &taking).and(source) {
            Ok(source) => source,
            Err(problem) => return self.refuse(folder, file, taking, &problem),
        };
        let follows = match file.is_accepted {
            false => folder.follows(&taking, source.content() == Content::Changes),
            // Something else may have been taken since it was accepted.
            true => folder.is_outdated(&taking).map_or(Follows::Next, Follows::Older),
        };
        match follows {
            Follows::Next => {}
            Follows::Waits => {
                self.watch.waits(folder.waiting());
                taking.leave();
                return Ok(Next::Goes);
            }
            Follows::Older(why) => return self.hold(folder, taking, source.content(), &why),
        }
        folder.forget_last()?;
        match self.take(move || Ok(source), file.is_accepted).await {
            Ok(report) => self.settle(folder, taking, report),
            Err(NotTaken::Refused(problem)) => self.refuse(folder, file, taking, &problem),
            Err(NotTaken::Broke(problem)) => {
                self.refuse(folder, file, taking, &problem)?;
                Err(NotSettled::Ended(IntakeEnded::BeginAnew))
            }
            Err(NotTaken::Waits(error)) => {
                // The file stays where it is; rows that are in the outbox already are found unchanged next time.
                tracing::error!(%error, file = %taking.name(), "the file waits until the disk takes more");
                taking.leave();
                Ok(Next::Waits)
            }
            Err(NotTaken::Stuck(error)) => {
                taking.leave();
                Err(NotSettled::Ended(error.into()))
            }
        }
    }

    /// Reads one file and opens it as a source; `None` if it changed meanwhile.
    async fn read(&self, folder: &DropFolder, file: &Ready) -> Result<Option<ReadFile>, NotSettled> {
        let reading = folder.reading(file);
        let format = self.config.format.clone();
        let task = tokio::task::spawn_blocking(move || {
            let Some(taking) = reading()? else { return Ok::<_, DropError>(None) };
            let source = FileSource::open(taking.path(), &format).map_err(|error| error.to_string());
            Ok(Some(ReadFile { taking, source }))
        });
        match task.await {
            Ok(read) => Ok(read?),
            Err(error) => {
                let error = anyhow::Error::from(error).context("reading a dropped file");
                Err(NotSettled::Ended(error.into()))
            }
        }
    }

    /// Lets the images follow what was taken; returns whether they can.
    async fn keeps_images(&self) -> bool {
        let agent = Arc::clone(&self.agent);
        match tokio::task::spawn_blocking(move || agent.keep_images()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the images cannot be written; the agent begins anew with them");
            }
            Err(error) => tracing::error!(%error, "the images' store failed (a defect: please report it)"),
        }
        false
    }

    /// Hands a file to the agent, on a thread that may wait for the disk.
    async fn take(
        &self,
        open: impl FnOnce() -> Result<FileSource, SourceError> + Send + 'static,
        accepted: bool,
    ) -> Result<FileReport, NotTaken> {
        let agent = Arc::clone(&self.agent);
        let guard = self.config.guard;
        let task = tokio::task::spawn_blocking(move || agent.take(&open()?, guard, accepted));
        match task.await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) if error.is_of_the_file() => Err(NotTaken::Refused(error.to_string())),
            Ok(Err(error)) if error.is_passing() => Err(NotTaken::Waits(error)),
            Ok(Err(error)) => Err(NotTaken::Stuck(error)),
            Err(_) => Err(NotTaken::Broke(
                "the agent's own code failed on it (a defect: please report it); nothing more of it is taken"
                    .to_owned(),
            )),
        }
    }

    fn refuse(
        &self,
        folder: &mut DropFolder,
        file: &Ready,
        taking: Taking,
        problem: &str,
    ) -> Result<Next, NotSettled> {
        // The copy's path means nothing to the person who dropped the file.
        let copy = taking.path().display().to_string();
        let problem = problem.replace(&copy, &file.path.display().to_string());
        tracing::error!(file = %taking.name(), problem = %problem, "the file was refused");
        self.watch.metrics().settled_file(Fate::Refused);
        folder.settle(taking, Fate::Refused, &serde_json::json!({"refused": problem}))?;
        Ok(Next::Goes)
    }

    /// Holds a file that comes too late, for a person to check.
    fn hold(
        &self,
        folder: &mut DropFolder,
        taking: Taking,
        content: Content,
        why: &str,
    ) -> Result<Next, NotSettled> {
        tracing::warn!(file = %taking.name(), %why, "the file is held; check it, then run: dit producer accept --config CONFIG FILE");
        self.watch.metrics().settled_file(Fate::Held);
        let is_full = content == Content::Register;
        let report =
            serde_json::json!({"file": taking.name(), "is_full": is_full, "taken": false, "guard": why});
        folder.settle(taking, Fate::Held, &report)?;
        Ok(Next::Goes)
    }

    fn settle(
        &self,
        folder: &mut DropFolder,
        taking: Taking,
        mut report: FileReport,
    ) -> Result<Next, NotSettled> {
        tell(&report);
        self.watch.metrics().took_file(&report);
        let fate = if report.taken { Fate::Taken } else { Fate::Held };
        folder.name_parked(&taking, fate, &report.parked)?;
        report.parked.truncate(REPORTED_ROWS);
        if report.taken {
            self.watch.took(&report);
            folder.remember(&taking, report.is_full)?;
            self.watch.waits(folder.waiting());
        }
        let report = serde_json::to_value(&report).unwrap_or_default();
        folder.settle(taking, fate, &report)?;
        Ok(Next::Goes)
    }
}

/// Logs what became of a file.
fn tell(report: &FileReport) {
    let counts = report.counts;
    let file = report.file.as_str();
    let create = counts.create;
    let update = counts.update;
    let delete = counts.delete;
    let parked = counts.parked;
    for remark in &report.remarks {
        tracing::warn!(%file, "{remark}");
    }
    if !report.ignored_columns.is_empty() {
        let columns = in_quotes(&report.ignored_columns);
        tracing::info!(%file, "columns that match no field of the schema are not read: {columns}");
    }
    if parked > 0 {
        let first = report.parked.first();
        let line = first.map_or(0, |row| row.location.line);
        let reason = first.map(|row| row.reason.clone()).unwrap_or_default();
        tracing::warn!(%file, "{parked} row(s) are parked, the first at line {line}: {reason}");
    }
    match (&report.guard, report.taken) {
        (Some(why), false) => {
            tracing::warn!(%file, %why, "held by the guard; check the file, then run: dit producer accept --config CONFIG FILE");
        }
        _ => tracing::info!(%file, create, update, delete, parked, "taken"),
    }
    if let (Some(why), true) = (&report.deletes_held, report.taken) {
        tracing::warn!(%file, "taken in part: no row is deleted by it, as {why}; correct the source, or say trailer in [format]");
    }
}

#[cfg(test)]
mod tests;

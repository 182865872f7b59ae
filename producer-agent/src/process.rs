//! The producer agent as a process: configuration, telemetry, build, run, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use platform::client::Client;
use platform::config;
use platform::identity::{Identity, Peer};
use platform::observe::{self, Observed};
use platform::retry::Retry;
use platform::segments::disk::RealDisk;
use platform::shutdown::{Tasks, terminate};
use platform::telemetry;
use schemas::avro::schema::AvroSchema;
use schemas::ids::AgentId;

use crate::agent::{Agent, AgentError};
use crate::config::ProducerConfig;
use crate::image::sled_store::SledImages;
use crate::image::{ImageError, ImageStore};
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::send::sender::SendError;
use crate::source::cells::in_quotes;
use crate::source::file::drop_folder::{DropError, DropFolder, Fate, Follows, Ready, Singles, Taking};
use crate::start::{self, Place, Started};
use crate::take::report::FileReport;

/// Parked rows that a report shows; the file beside it has all of them.
const REPORTED_ROWS: usize = 1_000;
/// How often the drop folder is looked at: a nightly file can wait this long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long local requests may take to end.
const ENDPOINT_DRAIN: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = ProducerConfig::read(path)?;
    let _telemetry = telemetry::init("dit-producer", config.log_format, "info,sled=warn")?;
    let identity = Identity::load(&config.identity)?;
    let id = match identity.own_name(&config.domain)? {
        Peer::Agent(id) => id,
        other => anyhow::bail!("the certificate names {other}, not an agent of a participant"),
    };
    let client = Client::new(&config.router, &identity)?;
    let metrics = Metrics::new(&identity, vec![config.data_dir.clone()])?;
    platform::closed::folder(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let _held = platform::closed::hold_if_sure(&config.data_dir)?;
    let watch = Arc::new(Watch::new(metrics, &config.drop_dir));
    let watching = Tasks::new();
    if let Some(address) = config.observe_listen {
        let listened = observe::listen(address, Arc::clone(&watch) as Arc<dyn Observed>, &watching).await;
        listened.with_context(|| format!("observe_listen = \"{address}\""))?;
    }
    let ended = work(&config, &id, &client, &watch).await;
    watching.stop_and_join(ENDPOINT_DRAIN).await;
    ended
}

async fn work(
    config: &ProducerConfig,
    id: &AgentId,
    client: &Client,
    watch: &Arc<Watch>,
) -> anyhow::Result<()> {
    let stop = terminate();
    tokio::pin!(stop);
    loop {
        let started = tokio::select! {
            biased;
            started = start(config, id, client, watch.metrics()) => started?,
            () = &mut stop => return Ok(()),
        };
        let Started { agent, mut sender, is_reopened } = started;
        watch.attend(&agent, &sender);
        let agent = Arc::new(agent);
        let appended = agent.appended();
        let endpoint = Tasks::new();
        let ended = tokio::select! {
            biased;
            outcome = sender.run(appended) => match outcome {
                // At its start the agent reopens what is in doubt.
                Err(SendError::Doubt(doubt)) => {
                    tracing::error!(%doubt, "begins anew once no file is being taken");
                    None
                }
                outcome => Some(outcome.context("sending has stopped")),
            },
            outcome = take_in(config, watch, Arc::clone(&agent), is_reopened, &endpoint) => match outcome {
                Err(Unwatched::BeginAnew) => {
                    tracing::error!("begins anew from what is on its disk");
                    None
                }
                Err(Unwatched::Failed(error)) => Some(Err(error)),
                Ok(()) => Some(Ok(())),
            },
            () = &mut stop => {
                tracing::info!("stopping; what is in the outbox is sent at the next start");
                Some(Ok(()))
            }
        };
        watch.leave();
        // Requests under way are answered first.
        if !endpoint.stop_and_join(ENDPOINT_DRAIN).await {
            tracing::warn!("a local request did not end in time");
        }
        if let Some(ended) = ended {
            return ended;
        }
        // A file that is being taken keeps the agent until it is done: two agents on one folder would be two chains.
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while Arc::strong_count(&agent) > 1 {
            looks.tick().await;
        }
    }
}

/// Begins the agent. Repeats until the router is there.
async fn start(
    config: &ProducerConfig,
    id: &AgentId,
    client: &Client,
    metrics: &Metrics,
) -> anyhow::Result<Started> {
    let schema = AvroSchema::parse(&config::read(&config.schema)?)
        .with_context(|| config.schema.display().to_string())?;
    let images = || -> Result<Box<dyn ImageStore>, ImageError> {
        let (images, _) = SledImages::open_or_set_aside(&config.data_dir.join("images"))?;
        Ok(Box::new(images))
    };
    let place = Place {
        id,
        channel: &config.channel,
        schema: &schema,
        dir: &config.data_dir,
        disk: Arc::new(RealDisk),
        images: &images,
        take_over: config.take_over,
    };
    let mut retry = Retry::default();
    loop {
        let error = match start::start(&place, client, &|why| metrics.reopens(why)).await {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        if !error.is_retryable() {
            return Err(error.into());
        }
        let wait = retry.next_wait();
        tracing::warn!(%error, ?wait, "the router is not there");
        tokio::time::sleep(wait).await;
    }
}

/// Why a file was not taken, as far as the agent's loop goes.
enum NotTaken {
    /// The file is wrong: it is refused by name.
    Refused(String),
    /// Something broke while it was read: it is refused, and the agent begins anew.
    Broke(String),
    /// The disk does not take more now.
    Waits(AgentError),
    /// The agent itself cannot go on.
    Stuck(AgentError),
}

async fn take(
    config: &ProducerConfig,
    agent: &Arc<Agent>,
    file: &Path,
    accepted: bool,
) -> Result<FileReport, NotTaken> {
    let taking = Arc::clone(agent);
    let format = config.format.clone();
    let guard = config.guard;
    let path = file.to_owned();
    let task = tokio::task::spawn_blocking(move || taking.take_file(&path, &format, guard, accepted));
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

/// Why the folder is watched no more.
enum Unwatched {
    /// What the agent keeps in memory may be wrong: it begins anew from its disk.
    BeginAnew,
    /// It cannot go on.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Unwatched {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The last step of a reopen: what the source says is compared once more with what the channel holds.
async fn compare_again(
    config: &ProducerConfig,
    agent: &Arc<Agent>,
    folder: &DropFolder,
) -> Result<(), Unwatched> {
    let Some(file) = folder.last_full() else {
        tracing::warn!("there is no whole register to compare with; drop one when there is");
        return Ok(());
    };
    match take(config, agent, &file, false).await {
        Ok(report) => {
            tell(&report);
            if !report.taken {
                folder.hold_copy(&file)?;
            }
        }
        Err(NotTaken::Refused(problem) | NotTaken::Broke(problem)) => {
            tracing::error!(%problem, "the last whole register cannot be compared again; drop a new one");
        }
        Err(NotTaken::Waits(error) | NotTaken::Stuck(error)) => return Err(error.into()),
    }
    Ok(())
}

/// Takes what the source gives: changes at the local endpoint, and files in the drop folder.
async fn take_in(
    config: &ProducerConfig,
    watch: &Arc<Watch>,
    agent: Arc<Agent>,
    is_reopened: bool,
    endpoint: &Tasks,
) -> Result<(), Unwatched> {
    let folder = DropFolder::open(&config.drop_dir, config.drop.clone())?;
    // Before anything else is taken: a single change that came meanwhile is younger than the register it would be compared with.
    if is_reopened {
        compare_again(config, &agent, &folder).await?;
        start::end_comparison(&RealDisk, &config.data_dir)?;
    }
    if let Some(http) = &config.http {
        let singles = Singles::beside(&config.drop_dir);
        crate::endpoint::listen(http, Arc::clone(&agent), singles, Arc::clone(watch), endpoint).await?;
    }
    watch_folder(config, watch, agent, folder).await
}

async fn watch_folder(
    config: &ProducerConfig,
    watch: &Watch,
    agent: Arc<Agent>,
    mut folder: DropFolder,
) -> Result<(), Unwatched> {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        let files = match folder.ready() {
            Ok(files) => files,
            Err(error) => {
                tracing::error!(%error, "the drop folder cannot be looked at; it is made and looked at again");
                // Somebody has removed it, perhaps to make it anew.
                if let Ok(again) = DropFolder::open(&config.drop_dir, config.drop.clone()) {
                    folder = again;
                }
                continue;
            }
        };
        for file in files {
            match dropped(config, watch, &agent, &mut folder, &file).await {
                Ok(true) => {}
                // What comes behind a file that waits for the disk waits, too.
                Ok(false) => break,
                Err(Dropped::Folder(error)) => {
                    tracing::error!(%error, "a dropped file waits; it is tried again");
                    break;
                }
                Err(Dropped::Agent(unwatched)) => return Err(unwatched),
            }
        }
    }
}

/// Why a dropped file was not done with.
enum Dropped {
    Folder(DropError),
    Agent(Unwatched),
}

impl From<DropError> for Dropped {
    fn from(error: DropError) -> Self {
        Self::Folder(error)
    }
}

/// Reads one file, and whether it has changes only; none where it changed under reading.
async fn read(
    config: &ProducerConfig,
    folder: &DropFolder,
    file: &Ready,
) -> Result<Option<(Taking, Result<bool, String>)>, Dropped> {
    let reading = folder.reading(file);
    let format = config.format.clone();
    let task = tokio::task::spawn_blocking(move || {
        let Some(taking) = reading()? else { return Ok::<_, DropError>(None) };
        let is_changes = Agent::is_change_file(taking.path(), &format).map_err(|error| error.to_string());
        Ok(Some((taking, is_changes)))
    });
    match task.await {
        Ok(read) => Ok(read?),
        Err(error) => {
            Err(Dropped::Agent(anyhow::Error::from(error).context("reading a dropped file").into()))
        }
    }
}

/// Takes one file; whether the next one may be taken.
async fn dropped(
    config: &ProducerConfig,
    watch: &Watch,
    agent: &Arc<Agent>,
    folder: &mut DropFolder,
    file: &Ready,
) -> Result<bool, Dropped> {
    let Some((taking, is_changes)) = read(config, folder, file).await? else { return Ok(true) };
    let refuse = |folder: &mut DropFolder, taking: Taking, problem: &str| {
        // The copy's own place says nothing to whoever dropped it.
        let copy = taking.path().display().to_string();
        let problem = problem.replace(&copy, &file.path.display().to_string());
        tracing::error!(file = %taking.name(), problem = %problem, "the file was refused");
        watch.metrics().settled_file(Fate::Refused);
        folder.settle(taking, Fate::Refused, &serde_json::json!({"refused": problem}))
    };
    let is_changes = match folder.check_mark(file, &taking).and(is_changes) {
        Ok(is_changes) => is_changes,
        Err(problem) => return Ok(refuse(folder, taking, &problem).map(|()| true)?),
    };
    let follows = match file.is_accepted {
        false => folder.follows(&taking, is_changes),
        // It was accepted before something else was taken.
        true => folder.is_outdated(&taking).map_or(Follows::Next, Follows::Older),
    };
    match follows {
        Follows::Next => {}
        Follows::Waits => {
            watch.waits(folder.waiting());
            taking.leave();
            return Ok(true);
        }
        Follows::Older(why) => {
            tracing::warn!(file = %taking.name(), %why, "held; look at it, then: dit producer accept");
            watch.metrics().settled_file(Fate::Held);
            let report = serde_json::json!({"file": taking.name(), "is_full": !is_changes, "taken": false, "guard": why});
            folder.settle(taking, Fate::Held, &report)?;
            return Ok(true);
        }
    }
    folder.forget_last()?;
    match take(config, agent, taking.path(), file.is_accepted).await {
        Ok(report) => settle(watch, folder, taking, report).map(|()| true).map_err(Dropped::Folder),
        Err(NotTaken::Refused(problem)) => Ok(refuse(folder, taking, &problem).map(|()| true)?),
        Err(NotTaken::Broke(problem)) => {
            refuse(folder, taking, &problem)?;
            Err(Dropped::Agent(Unwatched::BeginAnew))
        }
        Err(NotTaken::Waits(error)) => {
            // The file stays where it is; what of it is in the outbox already is found unchanged next time.
            tracing::error!(%error, file = %taking.name(), "the file waits until the disk takes more");
            taking.leave();
            Ok(false)
        }
        Err(NotTaken::Stuck(error)) => {
            taking.leave();
            Err(Dropped::Agent(error.into()))
        }
    }
}

fn settle(
    watch: &Watch,
    folder: &mut DropFolder,
    taking: Taking,
    mut report: FileReport,
) -> Result<(), DropError> {
    tell(&report);
    watch.metrics().took_file(&report);
    let fate = if report.taken { Fate::Taken } else { Fate::Held };
    folder.name_parked(&taking, fate, &report.parked)?;
    report.parked.truncate(REPORTED_ROWS);
    if report.taken {
        watch.took(&report);
        folder.remember(&taking, report.is_full)?;
        watch.waits(folder.waiting());
    }
    let report = serde_json::to_value(&report).unwrap_or_default();
    folder.settle(taking, fate, &report)
}

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
        tracing::info!(%file, "columns that stand for no field are not read: {columns}");
    }
    if parked > 0 {
        let first = report.parked.first();
        let line = first.map_or(0, |row| row.place.line);
        let reason = first.map(|row| row.reason.clone()).unwrap_or_default();
        tracing::warn!(%file, "{parked} row(s) are parked, the first at line {line}: {reason}");
    }
    match (&report.guard, report.taken) {
        (Some(why), false) => {
            tracing::warn!(%file, %why, "held by the guard; look at it, then: dit producer accept");
        }
        _ => tracing::info!(%file, create, update, delete, parked, "taken"),
    }
    if let (Some(why), true) = (&report.deletes_held, report.taken) {
        tracing::warn!(%file, "taken in part: no row is deleted by it, as {why}; correct the source, or say trailer in [format]");
    }
}

#[cfg(test)]
mod tests;

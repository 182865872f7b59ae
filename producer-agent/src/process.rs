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

use crate::agent::{Agent, AgentError, FileReport};
use crate::config::ProducerConfig;
use crate::image::sled_store::SledImages;
use crate::image::{ImageError, ImageStore};
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::send::sender::SendError;
use crate::source::drop_folder::{DropFolder, Fate};
use crate::start::{self, Place, Started};

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
        other => anyhow::bail!("the certificate names {other:?}, not an agent of a participant"),
    };
    let client = Client::new(&config.router, &identity)?;
    let metrics = Metrics::new(&identity, vec![config.data_dir.clone()])?;
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
        if let Some(http) = config.http {
            crate::endpoint::listen(http, Arc::clone(&agent), Arc::clone(watch), &endpoint).await?;
        }
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
            outcome = watch_folder(config, watch, Arc::clone(&agent), is_reopened) => Some(outcome),
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

async fn take(
    config: &ProducerConfig,
    agent: &Arc<Agent>,
    file: &Path,
    accepted: bool,
) -> anyhow::Result<Result<FileReport, AgentError>> {
    let (taking, format, guard) = (Arc::clone(agent), config.format.clone(), config.guard);
    let path = file.to_owned();
    Ok(tokio::task::spawn_blocking(move || taking.take_file(&path, &format, guard, accepted)).await?)
}

/// The last step of a reopen: what the source says is compared once more with what the channel holds.
async fn compare_again(
    config: &ProducerConfig,
    agent: &Arc<Agent>,
    folder: &DropFolder,
) -> anyhow::Result<()> {
    let Some(file) = folder.last_full() else {
        tracing::warn!("there is no whole register to compare with; drop one when there is");
        return Ok(());
    };
    match take(config, agent, &file, false).await? {
        Ok(report) => {
            tell(&report);
            if !report.taken {
                folder.hold_copy(&file)?;
            }
        }
        Err(error @ (AgentError::Table(_) | AgentError::Fit { .. })) => {
            tracing::error!(%error, "the last whole register cannot be compared again; drop a new one");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn watch_folder(
    config: &ProducerConfig,
    watch: &Watch,
    agent: Arc<Agent>,
    is_reopened: bool,
) -> anyhow::Result<()> {
    let mut folder = DropFolder::open(&config.drop_dir)?;
    if is_reopened {
        compare_again(config, &agent, &folder).await?;
        start::end_comparison(&RealDisk, &config.data_dir)?;
    }
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        for (file, accepted) in folder.ready()? {
            folder.forget_last()?;
            match take(config, &agent, &file, accepted).await? {
                Ok(mut report) => {
                    tell(&report);
                    watch.metrics().took_file(&report);
                    let fate = if report.taken { Fate::Taken } else { Fate::Held };
                    if !report.parked.is_empty() {
                        folder.name_parked(&file, fate, &report.parked)?;
                    }
                    report.parked.truncate(REPORTED_ROWS);
                    if report.taken {
                        watch.looked_at_source();
                        folder.remember(&file, report.is_full)?;
                    }
                    folder.settle(&file, fate, &serde_json::to_string_pretty(&report)?)?;
                }
                Err(error @ (AgentError::Table(_) | AgentError::Fit { .. })) => {
                    tracing::error!(%error, "the file was refused");
                    let report = serde_json::json!({"refused": error.to_string()});
                    watch.metrics().settled_file(Fate::Refused);
                    folder.settle(&file, Fate::Refused, &report.to_string())?;
                }
                Err(error) if error.is_passing() => {
                    // The file stays where it is; what of it is in the outbox already is found unchanged next time.
                    tracing::error!(%error, file = %file.display(), "the file waits until the disk takes more");
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn tell(report: &FileReport) {
    let counts = report.counts;
    let (create, update, delete, parked) = (counts.create, counts.update, counts.delete, counts.parked);
    match (&report.guard, report.taken) {
        (Some(why), false) => {
            tracing::warn!(file = %report.file, %why, "held by the guard; look at it, then: dit producer accept");
        }
        _ => tracing::info!(file = %report.file, create, update, delete, parked, "taken"),
    }
}

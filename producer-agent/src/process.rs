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
use tokio::time::Instant;

use crate::config::ProducerConfig;
use crate::image::disk_store::DiskImages;
use crate::image::{ImageError, ImageStore};
use crate::intake::{Intake, IntakeEnded};
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::send::sender::SendError;
use crate::start::{self, StartParts, Started};

/// The time between checks whether the agent before has released its folder.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that the largest register may need open: one for each 16 MiB of its images, some times over until a commit.
const MOST_FILES: u64 = 8_192;
/// How long local requests may take to end.
const ENDPOINT_DRAIN: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = ProducerConfig::read(path)?;
    let _telemetry = telemetry::init("dit-producer", config.log_format, "info,sled=warn")?;
    if let Err(few) = platform::open_files::allow(MOST_FILES) {
        // Most registers need a few of them; one that does not fit says so.
        tracing::debug!("{few}");
    }
    let identity = Identity::load(&config.identity)?;
    let certificate = || config.identity.certificate.display().to_string();
    let id = match identity.own_name(&config.domain).with_context(certificate)? {
        Peer::Agent(id) => id,
        other => {
            anyhow::bail!("{}: the certificate names {other}, not an agent of a participant", certificate())
        }
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
        let intake = Intake { config, watch, agent: Arc::clone(&agent) };
        let ended = tokio::select! {
            biased;
            outcome = sender.run(appended) => match outcome {
                // At its next start the agent reopens the channel.
                Err(SendError::Doubt(doubt)) => {
                    tracing::error!(%doubt, "the folder does not fit the log; the agent starts anew once no file is being taken");
                    None
                }
                outcome => Some(outcome.context("sending has stopped")),
            },
            outcome = intake.run(is_reopened, &endpoint) => match outcome {
                Err(IntakeEnded::BeginAnew) => {
                    tracing::error!("the agent begins again from what is on its disk; the lines before this one say why");
                    None
                }
                Err(IntakeEnded::Failed(error)) => Some(Err(error)),
                Ok(()) => Some(Ok(())),
            },
            () = &mut stop => {
                tracing::info!("stopping; what is in the outbox is sent at the next start");
                Some(Ok(()))
            }
        };
        drop(intake);
        watch.leave();
        // Requests under way are answered first.
        if !endpoint.stop_and_join(ENDPOINT_DRAIN).await {
            tracing::warn!("a local request did not end in time");
        }
        if let Some(ended) = ended {
            return ended;
        }
        // A disk that was full is not tried again at once. And a file that is being taken keeps the agent until it is
        // done: two agents on one folder would make two chains.
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.tick().await;
        while Arc::strong_count(&agent) > 1 {
            looks.tick().await;
        }
    }
}

/// Begins the agent. Repeats while the router is away or the disk is full.
async fn start(
    config: &ProducerConfig,
    id: &AgentId,
    client: &Client,
    metrics: &Metrics,
) -> anyhow::Result<Started> {
    let schema = AvroSchema::parse(&config::read(&config.schema)?)
        .with_context(|| config.schema.display().to_string())?;
    let images = || -> Result<Box<dyn ImageStore>, ImageError> {
        let (images, _) = DiskImages::open_or_set_aside(&config.data_dir.join("images"))?;
        Ok(Box::new(images))
    };
    let parts = StartParts {
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
        let error = match start::start(&parts, client, &|why| metrics.reopens(why)).await {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        if !error.is_retryable() {
            return Err(error.into());
        }
        let wait = retry.next_wait();
        match error.is_of_a_full_disk() {
            true => tracing::warn!(%error, ?wait, "the disk is full; the agent begins when there is room"),
            false => {
                tracing::warn!(%error, ?wait, "the agent cannot begin yet; it tries again after the wait")
            }
        }
        tokio::time::sleep(wait).await;
    }
}

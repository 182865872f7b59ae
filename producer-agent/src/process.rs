//! The producer agent as a process: configuration, telemetry, build, run, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use platform::client::{Client, send_json};
use platform::config;
use platform::identity::{Identity, Peer};
use platform::retry::Retry;
use platform::segments::disk::RealDisk;
use platform::shutdown::terminate;
use platform::telemetry;
use schemas::avro::schema::AvroSchema;
use schemas::ids::AgentId;
use schemas::publish::ChannelStatus;

use crate::agent::{Agent, FileReport, Opening};
use crate::config::ProducerConfig;
use crate::image::sled_store::SledImages;
use crate::send::machine::SendMachine;
use crate::send::sender::{Sender, lock};
use crate::source::drop_folder::{DropFolder, Fate};

/// How often the drop folder is looked at: a nightly file can wait this long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = ProducerConfig::read(path)?;
    telemetry::init(config.log_format, "info,sled=warn");
    let identity = Identity::load(&config.identity)?;
    let id = match identity.own_name(&config.domain)? {
        Peer::Agent(id) => id,
        other => anyhow::bail!("the certificate names {other:?}, not an agent of a participant"),
    };
    let client = Client::new(&config.router, &identity)?;
    let stop = terminate();
    tokio::pin!(stop);
    let started = tokio::select! {
        started = start(&config, &id, &client) => started?,
        () = &mut stop => return Ok(()),
    };
    let (agent, mut sender) = started;
    let appended = agent.appended();
    tokio::select! {
        outcome = sender.run(appended) => outcome.context("sending has stopped"),
        outcome = watch_folder(&config, agent) => outcome,
        () = &mut stop => {
            tracing::info!("stopping; what is in the outbox is sent at the next start");
            Ok(())
        }
    }
}

/// Asks the router for the channel, opens the folder and every partition. Repeats until the router is there.
async fn start(config: &ProducerConfig, id: &AgentId, client: &Client) -> anyhow::Result<(Agent, Sender)> {
    let mut retry = Retry::default();
    let status: ChannelStatus = loop {
        match send_json(client.get(&format!("/v1/channels/{}", config.channel))).await {
            Ok(status) => break status,
            Err(error) if error.is_retryable() => {
                let wait = retry.next_wait();
                tracing::warn!(%error, ?wait, "the router is not there");
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let schema = AvroSchema::parse(&config::read(&config.schema)?)
        .with_context(|| config.schema.display().to_string())?;
    let partitions = status.channel.partitions;
    let images = SledImages::open(&config.data_dir.join("images"))?;
    let channel = status.channel.name.clone();
    let agent = Agent::open(Opening {
        dir: config.data_dir.clone(),
        disk: Arc::new(RealDisk),
        images: Box::new(images),
        channel: status.channel,
        log_id: status.log_id,
        schema,
    })?;
    let outbox = agent.outbox();
    let epoch = lock(&outbox).epoch();
    let machine = SendMachine::new(id.clone(), epoch, partitions);
    let sender = Sender::new(client.clone(), channel, outbox, machine, agent.folded());
    Ok((agent, sender))
}

async fn watch_folder(config: &ProducerConfig, agent: Agent) -> anyhow::Result<()> {
    let mut folder = DropFolder::open(&config.drop_dir)?;
    let agent = Arc::new(agent);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        for (file, accepted) in folder.ready()? {
            let (taking, format, guard) = (Arc::clone(&agent), config.format.clone(), config.guard);
            let path = file.clone();
            let taken =
                tokio::task::spawn_blocking(move || taking.take_file(&path, &format, guard, accepted))
                    .await?;
            match taken {
                Ok(report) => {
                    tell(&report);
                    let fate = if report.taken { Fate::Taken } else { Fate::Held };
                    folder.settle(&file, fate, &serde_json::to_string_pretty(&report)?)?;
                }
                Err(error @ (crate::agent::AgentError::Table(_) | crate::agent::AgentError::Fit { .. })) => {
                    tracing::error!(%error, "the file was refused");
                    let report = serde_json::json!({"refused": error.to_string()});
                    folder.settle(&file, Fate::Refused, &report.to_string())?;
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

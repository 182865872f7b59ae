//! The consumer agent as a process: configuration, telemetry, build, run, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use platform::closed;
use platform::identity::Identity;
use platform::observe;
use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use platform::telemetry;
use tokio::sync::mpsc;

use crate::agents::{Agents, AgentsParts};
use crate::config::ConsumerConfig;
use crate::metrics::Metrics;
use crate::observe::Watch;

/// How often the configuration and the marks that request a comparison are checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or Ctrl-C, or until an agent's disk has failed.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = ConsumerConfig::read(path)?;
    let _telemetry = telemetry::init("dit-consumer", config.log_format, "info")?;
    if config.agreement.is_empty() {
        bail!("{}: there is no [[agreement]] to receive", path.display());
    }
    let identity = Identity::load(&config.identity)?;
    closed::folder(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let _held = closed::hold_if_sure(&config.data_dir)?;
    let metrics = Metrics::new(&identity, vec![config.data_dir.clone()])?;
    let tasks = Tasks::new();
    let (broken, mut breaks) = mpsc::channel(1);
    let observe_listen = config.observe_listen;
    let mut agents = Agents::start(AgentsParts {
        path: path.to_owned(),
        config,
        identity,
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        broken,
    })?;
    if let Some(address) = observe_listen {
        let watch = Watch::new(metrics, agents.statuses());
        let listened = observe::listen(address, Arc::new(watch), &tasks).await;
        listened.with_context(|| format!("observe_listen = \"{address}\""))?;
    }
    let ends = terminate();
    tokio::pin!(ends);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let fault = loop {
        tokio::select! {
            biased;
            () = &mut ends => break None,
            fault = breaks.recv() => break fault,
            _ = looks.tick() => agents.look(),
        }
    };
    tracing::info!("stopping");
    if !tasks.stop_and_join(DRAIN_LIMIT).await {
        bail!("a stream or a listener of the agent did not stop within {} s", DRAIN_LIMIT.as_secs());
    }
    match fault {
        Some(fault) => bail!("a replica's store has failed; restart the agent: {fault}"),
        None => Ok(()),
    }
}

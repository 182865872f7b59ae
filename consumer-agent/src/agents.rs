//! The agents of a process, one for each agreement: started with the process, or added while it runs.
//!
//! Owns the set of received agreements, which follows the configuration file, and the marks that request a comparison.
//! It does not see changes of an agreement that is already received: they need a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use platform::identity::Identity;
use platform::segments::disk::RealDisk;
use platform::shutdown::Tasks;
use schemas::ids::AgreementNumber;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::config::{AgreementConfig, ConsumerConfig};
use crate::metrics::Metrics;
use crate::phase::Phase;
use crate::receive::request::ReconcileRequest;
use crate::sink::Sink;
use crate::sink::file::FileSink;
use crate::sink::file::error::FileSinkError;
use crate::sink::postgres::PostgresSink;
use crate::status::{Statuses, reconcile_mark, status_path};

/// The parts from which [`Agents`] is made.
pub struct AgentsParts {
    /// The configuration file; agreements that are added to it later are received too.
    pub path: PathBuf,
    /// The present contents of the file.
    pub config: ConsumerConfig,
    pub identity: Identity,
    pub metrics: Metrics,
    pub tasks: Tasks,
    /// Receives the error of an agent whose disk has failed.
    pub broken: mpsc::Sender<String>,
}

pub struct Agents {
    path: PathBuf,
    config: ConsumerConfig,
    identity: Identity,
    metrics: Metrics,
    tasks: Tasks,
    broken: mpsc::Sender<String>,
    statuses: Statuses,
    requests: Vec<(AgreementNumber, ReconcileRequest)>,
    /// Write time and size of the configuration that was read last: two writes may share a time.
    written: Option<(SystemTime, u64)>,
    /// Write time and size of the file at the last look.
    seen: Option<(SystemTime, u64)>,
}

impl Agents {
    /// Starts an agent for each agreement of the configuration.
    pub fn start(parts: AgentsParts) -> Result<Self, FileSinkError> {
        let AgentsParts { path, config, identity, metrics, tasks, broken } = parts;
        let mut agents = Self {
            written: written(&path),
            seen: None,
            path,
            config,
            identity,
            metrics,
            tasks,
            broken,
            statuses: Statuses::default(),
            requests: Vec::new(),
        };
        for agreement in std::mem::take(&mut agents.config.agreement) {
            agents.add(&agreement)?;
        }
        Ok(agents)
    }

    /// The statuses of all agents.
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    fn add(&mut self, agreement: &AgreementConfig) -> Result<(), FileSinkError> {
        let number = agreement.number.clone();
        let channel = agreement.channel.as_str();
        let dir = self.config.data_dir.join(number.as_str());
        let sink: Box<dyn Sink> = match &agreement.postgres {
            Some(target) => Box::new(PostgresSink::new(target.clone(), number.clone(), channel)),
            None => Box::new(FileSink::open_or_set_aside(Arc::new(RealDisk), &dir, channel)?),
        };
        let status_file = status_path(&self.config.data_dir, &number);
        let meter = self.metrics.agreement(&number);
        let agent = Agent::new(self.config.router.clone(), self.identity.clone(), number.clone(), sink);
        let agent =
            agent.with_status_file(status_file).with_meter(meter).with_reconciliation(self.config.checks());
        self.statuses.add(agent.status());
        self.requests.push((number, agent.request()));
        let stopping = self.tasks.stopping();
        let broken = self.broken.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                status = agent.run() => if status.phase == Phase::Broken {
                    // One error is enough: the process ends with it.
                    drop(broken.try_send(status.last_error.unwrap_or_default()));
                },
                () = stopping => {}
            }
        });
        Ok(())
    }

    /// Checks once whether the configuration has changed and whether there are marks.
    pub fn look(&mut self) {
        let now = written(&self.path);
        // A file that is half written changes between two looks.
        if now != self.written && self.seen == now {
            self.written = now;
            self.take_up();
        }
        self.seen = now;
        for (number, request) in &self.requests {
            let mark = reconcile_mark(&self.config.data_dir, number);
            if mark.exists() {
                match std::fs::remove_file(&mark) {
                    Ok(()) => request.give(),
                    Err(error) => {
                        tracing::warn!(path = %mark.display(), %error, "no comparison begins: the agent cannot remove the file that asks for it");
                    }
                }
            }
        }
    }

    /// Starts an agent for each new agreement of the configuration.
    fn take_up(&mut self) {
        let config = match ConsumerConfig::read(&self.path) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "the configuration was changed and cannot be read: the agent goes on as before");
                return;
            }
        };
        let is_new = |agreement: &&AgreementConfig| {
            self.requests.iter().all(|(number, _)| *number != agreement.number)
        };
        let new: Vec<&AgreementConfig> = config.agreement.iter().filter(is_new).collect();
        if new.is_empty() {
            tracing::info!(
                "the configuration was changed, but has no new agreement; other changes take effect at the next start"
            );
        }
        for agreement in new {
            match self.add(agreement) {
                Ok(()) => tracing::info!(agreement = %agreement.number, "begins to receive it"),
                Err(error) => {
                    tracing::error!(agreement = %agreement.number, %error, "cannot begin to receive this agreement; remove the cause, then restart the agent");
                }
            }
        }
    }
}

fn written(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

//! The consumers of a demo, and when their files are complete.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use consumer_agent::receive::machine::Tally;
use consumer_agent::sink::file::Manifest;
use consumer_agent::status::Status;
use schemas::ids::{ChannelName, Offset};
use serde::Serialize;
use tokio::sync::watch;

use super::network::{Network, PATIENCE, has_reached};
use super::tables::ReplicaTable;
use super::verify;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaVerdict {
    pub participant: String,
    /// Its territory; `None` for one that has all.
    pub territory: Option<String>,
    pub channel: String,
    /// Rows that it holds.
    pub rows: usize,
    /// Whether they are exactly the ones it should hold.
    pub equal: bool,
    /// What was delivered to it.
    pub delivered: Tally,
    /// Fields of the subject that never left for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trimmed: Vec<String>,
}

/// A consumer at work.
pub struct Consumer {
    pub participant: String,
    /// Its territory; `None` where it has all.
    pub territory: Option<String>,
    pub channel: ChannelName,
    /// Where its files are.
    pub dir: PathBuf,
    /// Its table, where it has one instead of files.
    pub table: Option<ReplicaTable>,
    /// The version of its agreement.
    pub version: u32,
    pub status: watch::Receiver<Status>,
}

impl Consumer {
    /// Its rows as NDJSON.
    pub fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.ndjson", self.channel))
    }

    /// Waits until it follows the log: its later deliveries are changes.
    pub async fn joined(&mut self) -> anyhow::Result<()> {
        let joined = self.status.wait_for(|status| status.cursor.is_some());
        tokio::time::timeout(PATIENCE, joined)
            .await
            .with_context(|| format!("{} has not joined", self.participant))??;
        Ok(())
    }

    /// Waits until its files reflect the end of the log.
    pub async fn settle(&mut self, network: &Network) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ends = network.ends(&self.channel).await?;
            if self.is_settled(&ends) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let status = self.status.borrow().clone();
                bail!("{} has not caught up: {status:?}", self.participant);
            }
            // Woken by each batch; the time-out covers files that are written after the last one.
            drop(tokio::time::timeout(Duration::from_millis(50), self.status.changed()).await);
        }
    }

    fn is_settled(&self, ends: &[Offset]) -> bool {
        match &self.table {
            None => is_settled(&self.dir, ends, self.version),
            // The agent's status was committed together with the rows.
            Some(_) => {
                let status = self.status.borrow();
                let version = status.cursor.as_ref().map(|cursor| cursor.version.get());
                version == Some(self.version) && has_reached(status.cursor.as_ref(), ends)
            }
        }
    }

    /// The rows that it holds: sorted hashes.
    pub async fn held(&self) -> anyhow::Result<Vec<u128>> {
        match &self.table {
            None => verify::replica(&self.file()),
            Some(table) => verify::hashes(table.rows().await?.into_iter().map(Ok)),
        }
    }

    /// Its verdict, from what was found.
    pub fn verdict(&self, rows: usize, equal: bool, trimmed: Vec<String>) -> ReplicaVerdict {
        ReplicaVerdict {
            participant: self.participant.clone(),
            territory: self.territory.clone(),
            channel: self.channel.to_string(),
            rows,
            equal,
            delivered: self.status.borrow().delivered,
            trimmed,
        }
    }
}

/// Whether a replica's files reflect everything up to the ends, under the agreement's version.
fn is_settled(dir: &Path, ends: &[Offset], version: u32) -> bool {
    let Ok(text) = std::fs::read(dir.join("manifest.json")) else { return false };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return false };
    let cursor = manifest.cursor;
    cursor.version.get() == version && has_reached(Some(&cursor), ends)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionVerdict {
    pub file: String,
    /// New keys.
    pub create: u64,
    /// Changed keys.
    pub update: u64,
    /// Deleted keys.
    pub delete: u64,
    /// Rows set aside.
    pub parked: u64,
    /// Whether its changes were sent.
    pub taken: bool,
    /// Why the guard held it, or would have.
    pub guard: Option<String>,
}

impl VersionVerdict {
    /// The verdict in a file's report.
    pub fn of(report: producer_agent::take::report::FileReport, file: &Path) -> Self {
        let counts = report.counts;
        Self {
            file: file.display().to_string(),
            create: counts.create,
            update: counts.update,
            delete: counts.delete,
            parked: counts.parked,
            taken: report.taken,
            guard: report.guard,
        }
    }
}

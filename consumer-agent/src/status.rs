//! The status of a consumer's agent: for people, metrics and `dit status`.
//!
//! Owns the status, its file and its words. Decides nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use schemas::cursor::{Cursor, in_words as places_in_words};
use schemas::ids::{AgreementNumber, ChannelName};
use schemas::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::phase::Phase;
use crate::receive::machine::{Behind, Tally};
use crate::receive::reconciler::Reconciled;

/// What an agent is doing, for people and for `dit status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this form; 1.
    pub format: u32,
    pub agreement: AgreementNumber,
    pub phase: Phase,
    /// Where the replica stands.
    pub cursor: Option<Cursor>,
    /// How far it is behind the log, as last told.
    pub behind: Option<Behind>,
    /// Up to when the provider has looked at its source.
    pub freshness: Option<Millis>,
    pub rows: usize,
    /// Keys whose row the sink refuses.
    #[serde(default)]
    pub parked: usize,
    /// Events delivered since the agent began, by reason.
    pub delivered: Tally,
    /// When this was written.
    pub at: Millis,
    /// When the router's last word came, or the agent began.
    #[serde(default)]
    pub heard_at: Millis,
    /// How the replica was found when it was last compared with its part of the register.
    #[serde(default)]
    pub reconciled: Option<Reconciled>,
    /// The last error, and what to do about it.
    pub last_error: Option<String>,
}

/// Where an agreement's status is written.
pub fn status_path(data_dir: &Path, number: &AgreementNumber) -> PathBuf {
    data_dir.join(format!("{number}.status.json"))
}

/// The file that marks a person's request for a comparison.
pub fn reconcile_mark(data_dir: &Path, number: &AgreementNumber) -> PathBuf {
    data_dir.join(format!("{number}.reconcile"))
}

/// The statuses of all agents; clones share them, and see agents that are added later.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<RwLock<Vec<watch::Receiver<Status>>>>);

impl Statuses {
    pub fn all(&self) -> Vec<Status> {
        let agents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        agents.iter().map(|agent| agent.borrow().clone()).collect()
    }

    pub(crate) fn add(&self, agent: watch::Receiver<Status>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(agent);
    }
}

impl Status {
    /// Replaces the status file, if there is one; readers always find a whole file.
    pub(crate) fn write(&self, path: Option<&Path>) {
        let Some(path) = path else { return };
        if let Err(error) = self.replace(path) {
            tracing::warn!(path = %path.display(), %error, "the status could not be written");
        }
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        platform::closed::write(&beside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&beside, path)
    }

    /// Whether the replica is in order, as far as its agent knows: receiving, nothing parked, no error, found equal.
    pub fn is_well(&self) -> bool {
        let is_equal = self.reconciled.as_ref().is_none_or(|reconciled| reconciled.equal);
        self.phase == Phase::Streaming && self.parked == 0 && self.last_error.is_none() && is_equal
    }

    /// The status in words, with advice about an error.
    pub fn in_words(&self, channel: &ChannelName, now: Millis) -> String {
        let phase = match self.phase {
            Phase::Connecting => "looking for the router",
            Phase::Streaming => "receiving",
            Phase::Waiting => "waiting: the router gives nothing under this agreement now",
            Phase::Ended => "ended: purge what this agreement gave",
            Phase::Stuck => "the replica cannot be written; a person must correct this",
            Phase::Broken => "its disk has failed: start the agent again",
        };
        let seconds = |at: Millis| now.since(at) / 1_000;
        let freshness = self.freshness.map_or_else(
            || "the source's freshness is not known yet".to_owned(),
            |at| format!("the source was looked at {} s ago", seconds(at)),
        );
        let behind = match self.behind {
            None => "how far behind is not known yet".to_owned(),
            // A replica with parked rows or an error is not up to date.
            Some(Behind { records: 0, .. }) if self.is_well() => "up to date".to_owned(),
            Some(Behind { records: 0, .. }) => {
                "no later event is known, but the replica is not in order".to_owned()
            }
            Some(Behind { records, since: None }) => format!("behind by at most {records} records"),
            Some(Behind { records, since: Some(at) }) => {
                format!("behind by at most {records} records and {} s", seconds(at))
            }
        };
        let position = self.cursor.as_ref();
        let position = position.map_or_else(
            || "none yet".to_owned(),
            |cursor| match &cursor.snapshot {
                None => places_in_words(&cursor.places),
                Some(_) => "in a snapshot".to_owned(),
            },
        );
        let mut text = format!(
            "{} ({channel}): {phase}; {} rows; {behind}; {freshness}; position {position}; last sign of life {} s ago",
            self.agreement,
            self.rows,
            seconds(self.at)
        );
        if let Some(reconciled) = &self.reconciled {
            let found = if reconciled.equal { "equal to" } else { "not equal to" };
            let since = seconds(reconciled.at);
            let rows = reconciled.rows;
            let _ = write!(text, "\n  compared {since} s ago: {found} its part of the register ({rows} rows");
            let _ = match reconciled.repaired {
                0 => write!(text, ")"),
                repaired => write!(text, "; {repaired} were wrong and are repaired)"),
            };
        }
        if self.parked > 0 {
            let _ =
                write!(text, "\n  {} row(s) refused by PostgreSQL are parked: dit parked list", self.parked);
        }
        if let Some(error) = &self.last_error {
            let _ = write!(text, "\n  last error: {}", platform::shown::value(error));
        }
        text
    }
}

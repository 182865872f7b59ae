//! A consumer agent as monitoring sees it: each agreement's present status, and whether the agent is ready.
//!
//! Owns the checks that a request makes; it changes nothing.

use async_trait::async_trait;
use platform::observe::{Check, Observed};

use crate::metrics::Metrics;
use crate::phase::Phase;
use crate::status::{Status, Statuses};

/// The agents of a process, watched.
pub struct Watch {
    metrics: Metrics,
    agents: Statuses,
}

impl Watch {
    /// Watches each agreement's agent.
    pub const fn new(metrics: Metrics, agents: Statuses) -> Self {
        Self { metrics, agents }
    }

    fn statuses(&self) -> Vec<Status> {
        self.agents.all()
    }
}

#[async_trait]
impl Observed for Watch {
    async fn metrics(&self) -> String {
        self.metrics.render(self.statuses().iter())
    }

    async fn checks(&self) -> Vec<Check> {
        let faults: Vec<String> = self
            .statuses()
            .iter()
            // An agreement that has ended or is not in force is not the agent's fault.
            .filter(|status| matches!(status.phase, Phase::Connecting | Phase::Stuck | Phase::Broken))
            .map(|status| {
                let why = status.last_error.as_deref().unwrap_or("no word from the router yet");
                format!("{}: {}: {why}", status.agreement, status.phase.as_str())
            })
            .collect();
        let mut checks = vec![Check::new("agreements", (!faults.is_empty()).then(|| faults.join("; ")))];
        checks.extend(self.metrics.vitals().checks());
        checks
    }
}

//! The gate of one stream: whether its agreement version is still in force, and whether this router can know it.
//!
//! Owns the verdict; it is asked right before bytes are handed over, with no await in between.

use std::sync::Arc;

use schemas::delivery::CloseReason;
use schemas::ids::{AgreementNumber, AgreementVersion};
use tokio::sync::watch;

use crate::control::view::ControlView;
use crate::lease::service::Lease;

/// Watches one agreement version.
#[derive(Clone)]
pub struct Gate {
    view: watch::Receiver<Arc<ControlView>>,
    lease: Lease,
    number: AgreementNumber,
    version: AgreementVersion,
}

/// What may be done with bytes that are ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Hand them over.
    Open,
    /// Keep them: this router cannot know now whether the agreement is still in force.
    Held,
    /// Drop them: nothing more may pass.
    Closed(Closed),
}

/// Why a gate is closed, with words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
}

impl Gate {
    /// The gate of an agreement in a version.
    pub const fn new(
        view: watch::Receiver<Arc<ControlView>>,
        lease: Lease,
        number: AgreementNumber,
        version: AgreementVersion,
    ) -> Self {
        Self { view, lease, number, version }
    }

    /// What may be done with bytes now.
    pub fn verdict(&self) -> Verdict {
        let applied = self.view.borrow().applied;
        match self.closed() {
            Some(closed) => Verdict::Closed(closed),
            None if self.lease.holds(applied) => Verdict::Open,
            None => Verdict::Held,
        }
    }

    /// Why nothing more may pass; `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        let view = self.view.borrow();
        let Some(entry) = view.agreements.get(&self.number) else {
            return Some(Closed { reason: CloseReason::Revoked, detail: "the agreement is gone".to_owned() });
        };
        entry.verdict(self.version).map(|reason| {
            let number = &self.number;
            let detail = match reason {
                CloseReason::Amended => {
                    format!("agreement {number} is now in version {}", entry.agreement.version)
                }
                CloseReason::Revoked => {
                    format!("agreement {number} was revoked: {}; purge what it gave you", entry.reason)
                }
                other => format!("agreement {number} is {}: {}", other.as_str(), entry.reason),
            };
            Closed { reason, detail }
        })
    }

    /// Waits until nothing more may pass.
    pub async fn until_closed(&self) -> Closed {
        let mut view = self.view.clone();
        loop {
            if let Some(closed) = self.closed() {
                return closed;
            }
            if view.changed().await.is_err() {
                // Control has stopped: the router stops too, and ends the streams itself.
                std::future::pending::<()>().await;
            }
        }
    }

    pub const fn number(&self) -> &AgreementNumber {
        &self.number
    }

    pub const fn version(&self) -> AgreementVersion {
        self.version
    }

    /// The lease that it asks.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Notifies when control changes.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlView>> {
        self.view.clone()
    }
}

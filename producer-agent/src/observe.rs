//! A producer agent as monitoring sees it: its outbox and its sender now, and whether it is ready.
//!
//! Owns the checks that a request makes; it changes nothing except counters.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use platform::clock;
use platform::observe::{Check, Observed};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::metrics::{Look, Metrics};
use crate::outbox::{SharedOutbox, lock};
use crate::send::sender::{Sender, Sent};
use crate::source::file::drop_folder::DropFolder;
use crate::take::report::FileReport;

/// An agent that is watched.
pub struct Watch {
    metrics: Metrics,
    drop_dir: PathBuf,
    at_work: Mutex<Option<AtWork>>,
    /// The last check of the source, in seconds since 1970; 0 before the first.
    looked_at: AtomicI64,
    /// Change files that wait in the drop folder for an earlier one.
    waiting: AtomicU64,
    /// Whether the last whole register was taken in part: none of its deletes.
    is_partial: AtomicBool,
}

struct AtWork {
    outbox: SharedOutbox,
    sent: watch::Receiver<Sent>,
    /// The part of it that was counted.
    counted: Sent,
    /// The acknowledged position while entries wait, and since when it has not moved.
    waits: Option<(u64, Instant)>,
}

impl Watch {
    /// Begins without a router; `drop_dir` is the folder that files are dropped into.
    pub fn new(metrics: Metrics, drop_dir: &std::path::Path) -> Self {
        Self {
            metrics,
            drop_dir: drop_dir.to_owned(),
            at_work: Mutex::new(None),
            looked_at: AtomicI64::new(0),
            waiting: AtomicU64::new(0),
            is_partial: AtomicBool::new(false),
        }
    }

    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Watches an agent that is at work.
    pub fn attend(&self, agent: &Agent, sender: &Sender) {
        let at_work =
            AtWork { outbox: agent.outbox(), sent: sender.sent(), counted: Sent::default(), waits: None };
        *self.at_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_work);
    }

    /// Releases the agent's folder, so that it may be opened again.
    pub fn leave(&self) {
        self.look();
        *self.at_work.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the source was checked now.
    pub fn looked_at_source(&self) {
        self.looked_at.store(clock::now().get() / 1_000, Ordering::Relaxed);
    }

    /// Notes a file that was taken; one that was taken only in part is no check of the source.
    pub(crate) fn took(&self, report: &FileReport) {
        let is_partial = report.deletes_held.is_some();
        if report.is_full {
            self.is_partial.store(is_partial, Ordering::Relaxed);
        }
        if !is_partial {
            self.looked_at_source();
        }
    }

    /// Notes how many change files wait for an earlier one.
    pub(crate) fn waits(&self, files: usize) {
        self.waiting.store(u64::try_from(files).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn look(&self) -> Look {
        let looked_at = Some(self.looked_at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let held = DropFolder::held(&self.drop_dir).map_or(0, |held| held.len());
        let held =
            u64::try_from(held).unwrap_or(u64::MAX).saturating_add(self.waiting.load(Ordering::Relaxed));
        let is_partial = self.is_partial.load(Ordering::Relaxed);
        let look = Look { held, is_partial, looked_at, ..Look::default() };
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(AtWork { outbox, sent, counted, waits }) = at_work.as_mut() else { return look };
        let sent = *sent.borrow();
        let before = std::mem::replace(counted, sent);
        self.metrics.sent(sent.settled - before.settled, sent.failures - before.failures);
        let (next, bytes, limit) = {
            let outbox = lock(outbox);
            (outbox.next_position(), outbox.bytes(), outbox.watermark())
        };
        let waiting = next.saturating_sub(sent.acknowledged);
        *waits = match *waits {
            _ if waiting == 0 => None,
            Some(since) if since.0 == sent.acknowledged => Some(since),
            _ => Some((sent.acknowledged, Instant::now())),
        };
        let stalled = waits.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        Look { waiting, bytes, limit, stalled, is_connected: sent.is_connected, ..look }
    }
}

#[async_trait]
impl Observed for Watch {
    async fn metrics(&self) -> String {
        self.metrics.render(&self.look())
    }

    async fn checks(&self) -> Vec<Check> {
        let look = self.look();
        let router = (!look.is_connected)
            .then(|| "the router does not take what is sent; it waits in the outbox".to_owned());
        let is_full = look.limit > 0 && look.bytes >= look.limit;
        let outbox = is_full.then(|| format!("it holds {} bytes, its limit is {}", look.bytes, look.limit));
        let mut checks = vec![Check::new("router", router), Check::new("outbox", outbox)];
        checks.extend(self.metrics.vitals().checks());
        checks
    }
}

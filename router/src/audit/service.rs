//! One router's audit: a queue, the only task that writes the chain, and its head in control.
//!
//! Owns the order *entry first, stream afterwards*, and the entries about changes of control. An append that fails is
//! repeated until it succeeds: nothing is admitted meanwhile.

use std::sync::Arc;
use std::time::Duration;

use event_log::{Cleanup, Log, ReadError, Stored, TopicError, TopicSpec};
use imbl::ordmap::DiffItem;
use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::agreement::Status;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::chain::{Broken, Chain, Event};
use crate::control::change::{AuditHead, Body};
use crate::control::service::Control;
use crate::control::view::ControlView;

/// The audit topic's name.
pub const TOPIC: &str = "dit.audit";
const PARTITION: Partition = Partition::new(0);
const READ_BYTES: usize = 1 << 20;
/// Entries that wait for the writer; a full queue makes admissions wait.
const QUEUE: usize = 1_024;
/// How long an admission waits for its entry.
const RECORD_LIMIT: Duration = Duration::from_secs(5);
/// How often the head goes to control when it has moved.
const HEAD_EVERY: Duration = Duration::from_mins(1);

/// A page of the audit, as operators get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// Entries of all routers, byte for byte as they were hashed.
    pub entries: Vec<String>,
    /// Where the next page begins; the same again at the end.
    pub next: Offset,
    /// Where each router's chain stood when it last told control.
    pub heads: Vec<AuditHead>,
}

/// Why nothing could be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The router is stopping.
    #[error("the audit has stopped")]
    Stopped,
    /// The log does not take it in time; it may still be recorded later.
    #[error("the audit cannot be written now, and nothing is admitted without it; try again")]
    Late,
}

struct Request {
    event: Event,
    written: Option<oneshot::Sender<()>>,
}

/// A handle on a router's audit; clones share it.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Request>,
}

impl Audit {
    /// Makes the topic, finds the chain's end, and writes the chain until `tasks` stop.
    pub async fn start(
        log: Arc<dyn Log>,
        control: Control,
        router: &str,
        tasks: &Tasks,
    ) -> Result<Self, TopicError> {
        let spec = TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
        log.ensure_topic(&spec).await?;
        let (chain, end, applied) = resume(log.as_ref(), &control.view(), router).await?;
        // Changes from while the router was away take effect now.
        let seen = Arc::new(control.view_at(applied).await?);
        let (queue, requests) = mpsc::channel(QUEUE);
        let view = control.watch();
        let writer = Writer { log, control, router: router.to_owned(), chain, end, seen, reported: None };
        let stopping = tasks.stopping();
        tasks.spawn(writer.run(requests, view, stopping));
        Ok(Self { queue })
    }

    /// Records an event and waits, for a while, until it is in the log.
    pub async fn record(&self, event: Event) -> Result<(), AuditError> {
        let (written, done) = oneshot::channel();
        let request = Request { event, written: Some(written) };
        let recorded = async {
            self.queue.send(request).await.map_err(|_| AuditError::Stopped)?;
            done.await.map_err(|_| AuditError::Stopped)
        };
        tokio::time::timeout(RECORD_LIMIT, recorded).await.unwrap_or(Err(AuditError::Late))
    }

    /// Records an event without waiting for the log.
    pub async fn note(&self, event: Event) {
        let request = Request { event, written: None };
        if self.queue.send(request).await.is_err() {
            tracing::error!(
                "an event is missing in the audit: the router is stopping and writes no more entries"
            );
        }
    }
}

/// Entries as they are in the topic, from an offset on, for verification.
pub async fn read(log: &dyn Log, from: Offset) -> Result<(Vec<Stored>, Offset), ReadError> {
    let batch = log.read(TOPIC, PARTITION, from, READ_BYTES, Duration::ZERO).await?;
    Ok((batch.records, batch.next))
}

/// The chain's end: the head in control, and the entries after it.
async fn resume(
    log: &dyn Log,
    view: &ControlView,
    router: &str,
) -> Result<(Chain, Offset, Offset), TopicError> {
    let (mut chain, mut next, mut applied) = match view.audit_heads.get(router) {
        Some(head) => (Chain::at(router, head.next, &head.head), head.offset, head.applied),
        None => (Chain::new(router), log.bounds(TOPIC, PARTITION).await?.first, Offset::new(0)),
    };
    loop {
        let unavailable = |error: ReadError| TopicError::Unavailable(error.to_string());
        let (records, to) = read(log, next).await.map_err(unavailable)?;
        for stored in &records {
            match chain.take(stored.record.value.as_deref().unwrap_or_default()) {
                Ok(entry) => applied = entry.event.applied().map_or(applied, |to| applied.max(to)),
                Err(Broken::OtherRouter(_) | Broken::Repeat(_)) => {}
                Err(broken) => tracing::error!(offset = %stored.offset, %broken, "the audit chain is broken"),
            }
        }
        if to == next {
            return Ok((chain, next, applied));
        }
        next = to;
    }
}

struct Writer {
    log: Arc<dyn Log>,
    control: Control,
    router: String,
    chain: Chain,
    /// Entries after the head are at this offset or later.
    end: Offset,
    /// The view whose changes are in the chain.
    seen: Arc<ControlView>,
    /// The head that control has.
    reported: Option<String>,
}

impl Writer {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut view: watch::Receiver<Arc<ControlView>>,
        stopping: impl Future<Output = ()>,
    ) {
        let mut group = Vec::new();
        let mut heads = tokio::time::interval(HEAD_EVERY);
        self.write(vec![Event::Started]).await;
        self.follow(&mut view).await;
        // Control stops before the streams do: their ends are still to come.
        let mut control_lives = true;
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                // Changes first: admissions may come without a pause. The stop last: waiting entries come before.
                biased;
                changed = view.changed(), if control_lives => {
                    control_lives = changed.is_ok();
                    self.follow(&mut view).await;
                }
                count = requests.recv_many(&mut group, QUEUE) => {
                    if count == 0 {
                        break;
                    }
                    // A caller that stopped waiting was refused: there is nothing to record.
                    let is_wanted =
                        |request: &Request| request.written.as_ref().is_none_or(|written| !written.is_closed());
                    let (events, waiting): (Vec<_>, Vec<_>) = group
                        .drain(..)
                        .filter(is_wanted)
                        .map(|request| (request.event, request.written))
                        .unzip();
                    self.write(events).await;
                    for written in waiting.into_iter().flatten() {
                        // The caller may have gone.
                        let _is_gone = written.send(()).is_err();
                    }
                }
                _ = heads.tick() => self.tell_head().await,
                () = &mut stopping => break,
            }
        }
        self.tell_head().await;
    }

    /// Records the changes of control since the last call.
    async fn follow(&mut self, view: &mut watch::Receiver<Arc<ControlView>>) {
        let now = Arc::clone(&view.borrow_and_update());
        let events = changes(&self.seen, &now);
        self.seen = now;
        self.write(events).await;
    }

    /// Appends until the log takes the entries; a repeated entry does not count.
    async fn write(&mut self, events: Vec<Event>) {
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            match self.chain.push(platform::clock::now(), event) {
                Ok(value) => records.push(Record {
                    key: Some(self.router.clone().into_bytes()),
                    value: Some(value),
                    headers: Vec::new(),
                }),
                Err(error) => tracing::error!(%error, "an audit entry could not be made"),
            }
        }
        if records.is_empty() {
            return;
        }
        let mut retry = Retry::default();
        loop {
            match self.log.append(TOPIC, PARTITION, records.clone()).await {
                Ok(last) => {
                    self.end = last.next();
                    return;
                }
                Err(error) => {
                    let wait = retry.next_wait();
                    tracing::error!(%error, ?wait, "the audit cannot be written; nothing is admitted");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn tell_head(&mut self) {
        if self.reported.as_deref() == Some(&self.chain.head) {
            return;
        }
        let head = AuditHead {
            router: self.router.clone(),
            next: self.chain.next,
            head: self.chain.head.clone(),
            offset: self.end,
            applied: self.seen.applied,
        };
        match self.control.tell(&self.router, Body::AuditHead(head)).await {
            Ok(()) => self.reported = Some(self.chain.head.clone()),
            Err(error) => tracing::warn!(%error, "the audit's head did not get into control"),
        }
    }
}

/// The changes of agreements between two views. What both share is not looked at.
fn changes(before: &ControlView, after: &ControlView) -> Vec<Event> {
    let mut events = Vec::new();
    for difference in before.agreements.diff(&after.agreements) {
        let (known, (number, entry)) = match difference {
            DiffItem::Add(number, entry) => (None, (number, entry)),
            DiffItem::Update { old: (_, known), new } => (Some(known), new),
            // No agreement leaves control.
            DiffItem::Remove(..) => continue,
        };
        let version = entry.agreement.version;
        if known.is_none_or(|known| known.agreement.version != version) {
            events.push(Event::Version {
                agreement: number.clone(),
                version,
                by: entry.by.clone(),
                digest: entry.digest(),
                applied: after.applied,
            });
        }
        if known.map_or(Status::Active, |known| known.status) != entry.status {
            events.push(Event::Status {
                agreement: number.clone(),
                status: entry.status,
                reason: entry.reason.clone(),
                by: entry.by.clone(),
                applied: after.applied,
            });
        }
    }
    events
}

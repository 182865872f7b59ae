//! The control topic's reader and writer in one router.
//!
//! Owns the fold's publication through a `watch` and the wait for a change's own outcome. Decides nothing: the
//! fold does.

use std::sync::Arc;
use std::time::Duration;

use event_log::{AppendError, Cleanup, Log, TopicError, TopicSpec};
use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use tokio::sync::{broadcast, watch};

use super::change::{Body, Change, FORMAT};
use super::view::{ControlView, Refusal};

/// The control topic's name.
pub const TOPIC: &str = "dit.control";
const PARTITION: Partition = Partition::new(0);
const READ_BYTES: usize = 1 << 20;
const WAIT: Duration = Duration::from_secs(5);
/// Outcomes that are kept for a slow caller: if it misses more, its own outcome is unknown.
const OUTCOMES: usize = 4_096;
/// How long a change may take to be read back.
const OUTCOME_LIMIT: Duration = Duration::from_secs(30);
/// How long a request may wait for changes that are in the topic already.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);
/// Attempts at a change that conflicts with others.
const ATTEMPTS: usize = 16;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It did not count.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log did not take it; it may yet appear.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The router is stopping, or its control reader is.
    #[error("the control reader has stopped")]
    Stopped,
}

type Outcome = (Offset, Result<(), Refusal>);

/// A handle on control; clones share it.
#[derive(Clone)]
pub struct Control {
    log: Arc<dyn Log>,
    view: watch::Receiver<Arc<ControlView>>,
    outcomes: broadcast::Sender<Outcome>,
    /// Why this binary cannot follow control.
    fault: watch::Receiver<Option<String>>,
}

impl Control {
    /// Makes the topic, folds its records, and reads on until `tasks` stop.
    pub async fn start(log: Arc<dyn Log>, tasks: &Tasks) -> Result<Self, TopicError> {
        let spec = TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
        log.ensure_topic(&spec).await?;
        let end = log.bounds(TOPIC, PARTITION).await?.next;
        let (publish, view) = watch::channel(Arc::new(ControlView::default()));
        let (outcomes, _) = broadcast::channel(OUTCOMES);
        let (tell_fault, fault) = watch::channel(None);
        let control = Self { log: Arc::clone(&log), view, outcomes: outcomes.clone(), fault };
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                fault = fold_until_newer(log, &publish, outcomes) => {
                    tracing::error!(%fault, "control cannot be followed");
                    tell_fault.send_replace(Some(fault));
                }
            }
        });
        let mut folded = control.view.clone();
        if folded.wait_for(|view| view.applied >= end).await.is_err() {
            // The reader says why before it goes.
            let fault = control.fault.borrow().clone();
            let fault = fault.unwrap_or_else(|| "the control reader has stopped".to_owned());
            return Err(TopicError::Unavailable(fault));
        }
        drop(folded);
        Ok(control)
    }

    /// Returns the reason when this binary cannot follow control any further: it must not serve then.
    pub async fn failed(&self) -> String {
        let mut fault = self.fault.clone();
        match fault.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
            Ok(Some(fault)) => fault,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What is in force now.
    pub fn view(&self) -> Arc<ControlView> {
        Arc::clone(&self.view.borrow())
    }

    /// Waits until every change in the topic now is applied: then this router knows what another router has sent.
    pub async fn catch_up(&self) -> Result<(), TopicError> {
        let end = self.log.bounds(TOPIC, PARTITION).await?.next;
        let mut view = self.view.clone();
        match tokio::time::timeout(CATCH_UP_LIMIT, view.wait_for(|view| view.applied >= end)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TopicError::Unavailable("the control reader has stopped".to_owned())),
            Err(_) => {
                let problem = format!("control is not read to its end in {} s", CATCH_UP_LIMIT.as_secs());
                Err(TopicError::Unavailable(problem))
            }
        }
    }

    /// What was in force at an offset, folded anew.
    pub async fn view_at(&self, offset: Offset) -> Result<ControlView, TopicError> {
        let mut view = ControlView::default();
        while view.applied < offset {
            let read = self.log.read(TOPIC, PARTITION, view.applied, READ_BYTES, Duration::ZERO).await;
            let batch = read.map_err(|error| TopicError::Unavailable(error.to_string()))?;
            if batch.next == view.applied {
                break;
            }
            for stored in batch.records.iter().filter(|stored| stored.offset < offset) {
                // What did not count then does not count now.
                drop(fold_one(&mut view, stored.record.value.as_deref(), stored.logged_at));
            }
            view.applied = batch.next.min(offset);
        }
        Ok(view)
    }

    /// Notifies of changes.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlView>> {
        self.view.clone()
    }

    /// Appends a change against the present revision and waits for the fold's outcome.
    pub async fn change(&self, by: &str, body: Body) -> Result<(), ControlError> {
        self.change_with(by, |_| Ok(body.clone())).await
    }

    /// Like [`Control::change`], with a body made from the view that it is judged against; repeats after a conflict.
    pub async fn change_with<E: From<ControlError>>(
        &self,
        by: &str,
        make: impl Fn(&ControlView) -> Result<Body, E>,
    ) -> Result<(), E> {
        let mut last = ControlError::Stopped;
        for _ in 0..ATTEMPTS {
            let view = self.view();
            let body = make(&view)?;
            let replaces = view.revision(&body.entity());
            match self.append(Change { format: body.format(), replaces, by: by.to_owned(), body }).await {
                Err(ControlError::Refused(conflict @ Refusal::Conflict { .. })) => last = conflict.into(),
                outcome => return outcome.map_err(E::from),
            }
        }
        Err(last.into())
    }

    /// Appends a change against the present revision and does not wait: for a change that only this router makes.
    pub async fn tell(&self, by: &str, body: Body) -> Result<(), ControlError> {
        let replaces = self.view().revision(&body.entity());
        let record = record(&Change { format: body.format(), replaces, by: by.to_owned(), body })?;
        self.log.append(TOPIC, PARTITION, vec![record]).await?;
        Ok(())
    }

    /// Appends one change as it is and waits for the fold's outcome.
    pub async fn append(&self, change: Change) -> Result<(), ControlError> {
        let mut outcomes = self.outcomes.subscribe();
        let offset = self.log.append(TOPIC, PARTITION, vec![record(&change)?]).await?;
        loop {
            let Ok(outcome) = tokio::time::timeout(OUTCOME_LIMIT, outcomes.recv()).await else {
                let text =
                    "the change was written, but this router did not read it back in time; check whether it is in force, and repeat it if not".to_owned();
                return Err(AppendError::Unknown(text).into());
            };
            match outcome {
                Ok((found, outcome)) if found == offset => {
                    let mut view = self.view.clone();
                    let applied = view.wait_for(|view| view.applied > offset).await;
                    applied.map_err(|_| ControlError::Stopped)?;
                    return outcome.map_err(ControlError::from);
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let text = "too many changes came at once to confirm this one; check whether it is in force, and repeat it if not".to_owned();
                    return Err(AppendError::Unknown(text).into());
                }
                Err(broadcast::error::RecvError::Closed) => return Err(ControlError::Stopped),
            }
        }
    }
}

fn record(change: &Change) -> Result<Record, Refusal> {
    let value = serde_json::to_vec(change).map_err(|e| Refusal::Rule(e.to_string()))?;
    let key = Some(change.body.entity().into_bytes());
    Ok(Record { key, value: Some(value), headers: Vec::new() })
}

/// Folds until a change of a newer format comes: it may be a revocation.
async fn fold_until_newer(
    log: Arc<dyn Log>,
    publish: &watch::Sender<Arc<ControlView>>,
    outcomes: broadcast::Sender<Outcome>,
) -> String {
    let mut retry = Retry::default();
    let mut next = Offset::new(0);
    loop {
        let batch = match log.read(TOPIC, PARTITION, next, READ_BYTES, WAIT).await {
            Ok(batch) => batch,
            Err(error) => {
                let wait = retry.next_wait();
                tracing::error!(%error, ?wait, "the control topic cannot be read");
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        retry.reset();
        if batch.next == next {
            continue;
        }
        let mut view = publish.borrow().as_ref().clone();
        let mut found = Vec::with_capacity(batch.records.len());
        for stored in &batch.records {
            if let Some(format) = newer_format(stored.record.value.as_deref()) {
                let offset = stored.offset;
                return format!(
                    "control change {offset} has format {format}, this binary knows up to {FORMAT}; use a newer dit"
                );
            }
            let outcome = fold_one(&mut view, stored.record.value.as_deref(), stored.logged_at);
            if let Err(refusal) = &outcome {
                tracing::warn!(offset = %stored.offset, %refusal, "a control change was refused and has no effect");
            }
            found.push((stored.offset, outcome));
        }
        next = batch.next;
        view.applied = next;
        publish.send_replace(Arc::new(view));
        for outcome in found {
            // Perhaps no caller waits.
            drop(outcomes.send(outcome));
        }
    }
}

/// The format of a change that only a newer binary understands.
fn newer_format(value: Option<&[u8]>) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        format: u32,
    }
    let versioned: Versioned = serde_json::from_slice(value?).ok()?;
    (versioned.format > FORMAT).then_some(versioned.format)
}

fn fold_one(view: &mut ControlView, value: Option<&[u8]>, at: schemas::time::Millis) -> Result<(), Refusal> {
    let change: Change = serde_json::from_slice(value.unwrap_or_default())
        .map_err(|e| Refusal::Rule(format!("not a control change: {e}")))?;
    view.apply(&change, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::change::Participant;
    use event_log::memory::MemoryLog;

    fn participant(id: &str) -> Body {
        Body::Participant(Participant { id: id.parse().unwrap(), name: "n".to_owned() })
    }

    #[tokio::test]
    async fn what_was_changed_is_there_for_the_next_router() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
        let tasks = Tasks::new();
        let control = Control::start(Arc::clone(&log), &tasks).await.unwrap();
        let changes: Vec<_> = (0..20).map(|_| control.change("t", participant("1"))).collect();
        for outcome in futures_util::future::join_all(changes).await {
            outcome.unwrap();
        }
        let second = Control::start(log, &tasks).await.unwrap();
        assert_eq!(second.view().revision("participant/1").get(), 20, "each conflict was repeated");
        assert!(tasks.stop_and_join(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_change_of_a_newer_format_ends_the_router_by_name() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
        let tasks = Tasks::new();
        let control = Control::start(Arc::clone(&log), &tasks).await.unwrap();
        let newer = br#"{"format": 3, "replaces": 0, "by": "x", "body": {"kind": "something_new"}}"#;
        let newer = Record { value: Some(newer.to_vec()), ..Record::default() };
        log.append(TOPIC, PARTITION, vec![newer]).await.unwrap();
        let fault = tokio::time::timeout(Duration::from_secs(10), control.failed()).await.unwrap();
        assert!(fault.contains("format 3") && fault.contains("use a newer dit"), "{fault}");
        let error = Control::start(log, &tasks).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("use a newer dit"), "{error}");
    }

    #[tokio::test]
    async fn a_foreign_record_is_skipped() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
        let tasks = Tasks::new();
        let control = Control::start(Arc::clone(&log), &tasks).await.unwrap();
        let foreign = Record { value: Some(b"hello".to_vec()), ..Record::default() };
        log.append(TOPIC, PARTITION, vec![foreign]).await.unwrap();
        control.change("t", participant("2")).await.unwrap();
        assert_eq!(control.view().participants.len(), 1);
        assert!(tasks.stop_and_join(Duration::from_secs(5)).await);
    }
}

//! The agent of one agreement: it receives streams into a sink, one after another.
//!
//! Owns the loop that recovers from any outage. It ends only with the agreement, or when the agent's disk has failed.

use std::path::PathBuf;
use std::time::Duration;

use platform::client::Client;
use platform::clock::now;
use platform::identity::Identity;
use platform::retry::Retry;
use schemas::cursor::Cursor;
use schemas::ids::AgreementNumber;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::{AgreementMeter, Part};
use crate::phase::Phase;
use crate::receive::machine::{Closed, ProtocolError, ReceiveMachine, Tally};
use crate::receive::receiver::{Ended, Moment, ReceiveError, Receiving, receive};
use crate::receive::reconciler::{Reconciled, Reconciler};
use crate::receive::recovery::{Advance, Recovery, Step, StreamEnd, Wait};
use crate::receive::request::ReconcileRequest;
use crate::sink::Sink;
use crate::status::Status;

/// The wait before an agreement that is not in force is requested again.
const NOT_ACTIVE_WAIT: Duration = Duration::from_secs(10);

/// How often the status file is written while events flow.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The agent of one agreement.
pub struct Agent {
    router: String,
    identity: Identity,
    number: AgreementNumber,
    sink: Box<dyn Sink>,
    status: watch::Sender<Status>,
    status_file: Option<PathBuf>,
    meter: Option<AgreementMeter>,
    reconcile_every: Option<Duration>,
    request: ReconcileRequest,
}

impl Agent {
    /// An agent for an agreement and its sink.
    pub fn new(router: String, identity: Identity, number: AgreementNumber, sink: Box<dyn Sink>) -> Self {
        let status = Status {
            format: 1,
            agreement: number.clone(),
            phase: Phase::Connecting,
            cursor: sink.cursor(),
            behind: None,
            freshness: None,
            rows: sink.row_count(),
            parked: sink.parked_count(),
            delivered: Tally::default(),
            at: now(),
            heard_at: now(),
            reconciled: None,
            last_error: None,
        };
        Self {
            router,
            identity,
            number,
            sink,
            status: watch::Sender::new(status),
            status_file: None,
            meter: None,
            reconcile_every: None,
            request: ReconcileRequest::default(),
        }
    }

    /// Writes the status to this file, for `dit status`.
    #[must_use]
    pub fn with_status_file(mut self, path: PathBuf) -> Self {
        self.status_file = Some(path);
        self
    }

    /// Sets the time between comparisons with the register; `None` means never.
    #[must_use]
    pub fn with_reconciliation(mut self, every: Option<Duration>) -> Self {
        self.reconcile_every = every;
        self
    }

    /// The handle that requests a comparison.
    pub fn request(&self) -> ReconcileRequest {
        self.request.clone()
    }

    /// Counts the agent's work with this meter.
    #[must_use]
    pub fn with_meter(mut self, meter: AgreementMeter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// The agent's status, to be watched.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Receives until the agreement ends or the disk fails; recovers from everything else.
    pub async fn run(mut self) -> Status {
        let mut retry = Retry::default();
        let mut recovery = Recovery::default();
        let mut reconciler = Reconciler::new(self.reconcile_every, Instant::now(), share());
        loop {
            let (outcome, advance) = self.stream_once(&recovery, &mut reconciler).await;
            self.count_end(&outcome);
            if !matches!(outcome, Ok(Ended::ToQuery)) && reconciler.on_broken(Instant::now()) {
                tracing::warn!(agreement = %self.number, "the replica could not be compared with the register; the next scheduled comparison tries again");
            }
            let end = stream_end(&outcome);
            let step = recovery.on_end(end, advance);
            if outcome.is_ok() {
                // The router has answered: earlier failures no longer count.
                retry.reset();
            }
            let wait = match step {
                Step::Over(_) | Step::Again { wait: Wait::Not, .. } => Duration::ZERO,
                Step::Again { wait: Wait::Backoff, .. } => retry.next_wait(),
                Step::Again { wait: Wait::Long, .. } => NOT_ACTIVE_WAIT,
            };
            self.log_end(&outcome, end, step, wait);
            match step {
                Step::Over(phase) => {
                    self.tell(phase, self.in_words(&outcome, step));
                    return self.status.borrow().clone();
                }
                Step::Again { phase: Some(phase), .. } => self.tell(phase, self.in_words(&outcome, step)),
                Step::Again { phase: None, .. } => {}
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Receives one stream to its end; also returns the replica's advance.
    async fn stream_once(
        &mut self,
        recovery: &Recovery,
        reconciler: &mut Reconciler,
    ) -> (Result<Ended, ReceiveError>, Advance) {
        let mut was_live = false;
        // After an error the sink knows its cursor only once it is ready again.
        let ready = self.sink.ready().await;
        let cursor = self.sink.cursor();
        let outcome = match ready {
            Ok(()) => self.stream(recovery.start(cursor.clone()), reconciler, &mut was_live).await,
            Err(error) => Err(error.into()),
        };
        (outcome, Advance { was_live, has_moved: self.sink.cursor() != cursor })
    }

    fn count_end(&self, outcome: &Result<Ended, ReceiveError>) {
        let Some(meter) = &self.meter else { return };
        match outcome {
            Ok(Ended::ToQuery) => {}
            Ok(Ended::Closed(closed)) => meter.closed(closed.reason.as_str()),
            Err(ReceiveError::Client(_)) => meter.broke(Part::Router),
            Err(ReceiveError::Sink(_)) => meter.broke(Part::Sink),
            Err(error) => {
                meter.broke(Part::Stream);
                if matches!(error, ReceiveError::Protocol(ProtocolError::Backwards(_))) {
                    meter.went_back();
                }
            }
        }
    }

    /// Logs how a stream ended, and the wait before the next one.
    fn log_end(&self, outcome: &Result<Ended, ReceiveError>, end: StreamEnd, step: Step, wait: Duration) {
        let agreement = &self.number;
        match (outcome, step) {
            (Ok(Ended::ToQuery), _) => {}
            (Ok(Ended::Closed(closed)), _) => {
                tracing::info!(%agreement, reason = closed.reason.as_str(), detail = %closed.detail, "the stream was closed");
            }
            (Err(error), Step::Over(Phase::Ended)) => {
                tracing::warn!(%agreement, %error, "the agreement has ended; purge what it gave");
            }
            (Err(ReceiveError::Sink(error)), Step::Over(_) | Step::Again { wait: Wait::Long, .. }) => {
                tracing::error!(%agreement, %error, "the replica cannot be written");
            }
            (Err(error), Step::Again { wait: Wait::Long, .. }) => {
                tracing::warn!(%agreement, %error, ?wait, "waits, and keeps its replica as it is");
            }
            (Err(error), _) if end.is_refused_cursor() => {
                tracing::warn!(%agreement, %error, ?wait, "begins again from the state");
            }
            (Err(error), _) => tracing::warn!(%agreement, %error, ?wait, "the stream broke"),
        }
    }

    /// How a stream ended, in words for people, with what they should do.
    fn in_words(&self, outcome: &Result<Ended, ReceiveError>, step: Step) -> Option<String> {
        match outcome {
            Ok(Ended::ToQuery) => None,
            Ok(Ended::Closed(closed)) => Some(closed.in_words()),
            Err(error) if step == Step::Over(Phase::Ended) => {
                Some(format!("{error}; purge what it gave you"))
            }
            Err(error @ ReceiveError::Sink(_)) => Some(error.to_string()),
            Err(error) => Some(match self.identity.expired() {
                None => error.to_string(),
                Some(until) => {
                    format!("our certificate was good until {until}; have a new one issued ({error})")
                }
            }),
        }
    }

    async fn stream(
        &mut self,
        cursor: Option<Cursor>,
        reconciler: &mut Reconciler,
        was_live: &mut bool,
    ) -> Result<Ended, ReceiveError> {
        let meter = self.meter.clone();
        // A client of its own: a slow reader would starve other streams of one connection.
        let client = Client::new(&self.router, &self.identity)?;
        let number = &self.number;
        let status = &self.status;
        let file = self.status_file.as_deref();
        let before = status.borrow().delivered;
        let mut written: Option<tokio::time::Instant> = None;
        let mut on_progress =
            |machine: &ReceiveMachine, sink: &dyn Sink, reconciled: Option<Reconciled>, moment: Moment| {
                *was_live |= machine.is_live();
                if let (Some(meter), Moment::Applied(took)) = (&meter, moment) {
                    meter.applied(took);
                }
                if let Some(reconciled) =
                    reconciled.filter(|reconciled| status.borrow().reconciled != Some(*reconciled))
                {
                    tell_reconciled(number, &reconciled, meter.as_ref());
                }
                status.send_modify(|status| {
                    status.phase = Phase::Streaming;
                    status.cursor = machine.cursor();
                    status.behind = machine.behind();
                    status.freshness = machine.freshness();
                    status.rows = sink.row_count();
                    status.parked = sink.parked_count();
                    status.delivered = before.plus(machine.tally());
                    status.at = now();
                    status.heard_at = status.at;
                    status.reconciled = reconciled.or(status.reconciled);
                    status.last_error = None;
                });
                if moment == Moment::Settled || written.is_none_or(|at| at.elapsed() >= STATUS_EVERY) {
                    status.borrow().write(file);
                    written = Some(tokio::time::Instant::now());
                }
            };
        let sink = self.sink.as_mut();
        let stream = Receiving { client: &client, number, cursor, sink, reconciler, request: &self.request };
        let outcome = receive(stream, &mut on_progress).await;
        let rows = self.sink.row_count();
        self.status.send_modify(|status| status.rows = rows);
        self.status.borrow().write(self.status_file.as_deref());
        outcome
    }

    fn tell(&self, phase: Phase, error: Option<String>) {
        let rows = self.sink.row_count();
        self.status.send_modify(|status| {
            status.phase = phase;
            status.rows = rows;
            status.at = now();
            status.last_error = error;
        });
        self.status.borrow().write(self.status_file.as_deref());
    }
}

/// How a stream ended, in the recovery's terms.
fn stream_end(outcome: &Result<Ended, ReceiveError>) -> StreamEnd {
    match outcome {
        Ok(Ended::ToQuery) => StreamEnd::ToQuery,
        Ok(Ended::Closed(Closed { reason, next, .. })) => StreamEnd::Closed { reason: *reason, next: *next },
        Err(ReceiveError::Sink(error)) => StreamEnd::Sink(error.class),
        Err(ReceiveError::Client(error)) => {
            error.problem().map_or(StreamEnd::Broken, |problem| StreamEnd::Refused(problem.code))
        }
        Err(_) => StreamEnd::Broken,
    }
}

/// A random share of the first interval, in thousandths: agents that begin together do not compare together.
fn share() -> u32 {
    // Without randomness the first comparison waits for the whole interval.
    platform::random::bytes().map_or(1_000, |bytes| u32::from(u16::from_be_bytes(bytes)) * 1_000 / 65_536)
}

fn tell_reconciled(number: &AgreementNumber, reconciled: &Reconciled, meter: Option<&AgreementMeter>) {
    let Reconciled { equal, rows, repaired, bytes, .. } = reconciled;
    if *equal {
        tracing::info!(agreement = %number, rows, repaired, bytes, "the replica equals its part of the register");
    } else {
        tracing::error!(agreement = %number, rows, repaired, bytes, "the replica differs from its part of the register, also after it was repaired: find out what else writes it, or receive it anew (DitPromiseBroken in docs/runbook.md)");
    }
    if let Some(meter) = meter {
        meter.reconciled(reconciled);
    }
}

#[cfg(test)]
mod tests;

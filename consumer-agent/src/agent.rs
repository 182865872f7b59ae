//! One agreement's agent: a sink, a stream, and what to do when the stream ends.
//!
//! Owns the loop that restores itself after any outage. It gives up only on a person's word: stop.

use std::path::PathBuf;
use std::time::Duration;

use platform::client::{Client, ClientError};
use platform::clock::now;
use platform::identity::Identity;
use platform::retry::Retry;
use platform::segments::SegmentError;
use schemas::cursor::Cursor;
use schemas::delivery::{CloseReason, Next};
use schemas::error_code::ErrorCode;
use schemas::ids::AgreementNumber;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::{AgreementMeter, Part};
use crate::receive::machine::{ProtocolError, ReceiveMachine, Tally};
use crate::receive::receiver::{Ended, Moment, ReceiveError, receive};
use crate::receive::reconciling::{Checked, Reconciling};
use crate::receive::wish::Wish;
use crate::sink::{Sink, SinkError};
use crate::status::{Phase, Status};

/// How long an agreement that is not in force is left alone before it is asked for again.
const NOT_ACTIVE_WAIT: Duration = Duration::from_secs(10);

/// How often the status file follows while events flow.
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
    check_every: Option<Duration>,
    wish: Wish,
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
            checked: None,
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
            check_every: None,
            wish: Wish::default(),
        }
    }

    /// Where to write the status for `dit status`.
    #[must_use]
    pub fn with_status_file(mut self, path: PathBuf) -> Self {
        self.status_file = Some(path);
        self
    }

    /// How often the replica is compared with its part of the register; never without.
    #[must_use]
    pub fn with_checks(mut self, every: Option<Duration>) -> Self {
        self.check_every = every;
        self
    }

    /// To ask it for a comparison.
    pub fn wish(&self) -> Wish {
        self.wish.clone()
    }

    /// What counts what it does.
    #[must_use]
    pub fn with_meter(mut self, meter: AgreementMeter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// To be told what the agent is doing.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Receives until the agreement ends; restores itself after everything else.
    pub async fn run(mut self) -> Status {
        let mut retry = Retry::default();
        let mut from_state = false;
        let mut is_live = false;
        let mut reconciling = Reconciling::new(self.check_every, Instant::now(), share());
        loop {
            let (standing, outcome) = match self.sink.ready().await {
                Ok(()) => {
                    let standing = self.sink.cursor();
                    (
                        standing.clone(),
                        self.stream(standing.filter(|_| !from_state), &mut reconciling, &mut is_live).await,
                    )
                }
                Err(error) => (self.sink.cursor(), Err(error.into())),
            };
            // A pass that came to its end need not be made again because the stream broke later; one that did not may
            // be gone on with.
            from_state &= !std::mem::take(&mut is_live) && self.sink.cursor() == standing;
            self.count_end(&outcome);
            if !matches!(outcome, Ok(Ended::ToAsk)) && reconciling.on_broken(Instant::now()) {
                tracing::warn!(agreement = %self.number, "the replica could not be compared with the register; it is tried again at its next time");
            }
            let wait = match outcome {
                Ok(Ended::ToAsk) => {
                    retry.reset();
                    Duration::ZERO
                }
                Ok(Ended::Closed(closed)) => {
                    retry.reset();
                    tracing::info!(agreement = %self.number, reason = closed.reason.as_str(), detail = %closed.detail, "the stream was closed");
                    if matches!(closed.reason, CloseReason::Revoked | CloseReason::Expired) {
                        self.tell(Phase::Ended, Some(closed.in_words()));
                        return self.status.borrow().clone();
                    }
                    from_state = closed.next == Next::Resync;
                    match closed.next {
                        Next::Continue => retry.next_wait(),
                        Next::Resync => Duration::ZERO,
                        Next::Stop => {
                            self.tell(Phase::Waiting, Some(closed.in_words()));
                            NOT_ACTIVE_WAIT
                        }
                    }
                }
                Err(ReceiveError::Sink(SinkError::Segment(error @ SegmentError::Poisoned { .. }))) => {
                    // What a failed sync leaves on the disk is known only after a new start.
                    self.tell(Phase::Broken, Some(error.to_string()));
                    return self.status.borrow().clone();
                }
                Err(ReceiveError::Sink(error)) if error.needs_a_person() => {
                    tracing::error!(agreement = %self.number, %error, "the replica cannot be written");
                    self.tell(Phase::Stuck, Some(error.to_string()));
                    NOT_ACTIVE_WAIT
                }
                Err(ReceiveError::Client(error)) if has_ended(&error) => {
                    // It ended while nobody listened.
                    tracing::warn!(agreement = %self.number, %error, "the agreement has ended; purge what it gave");
                    self.tell(Phase::Ended, Some(format!("{error}; purge what it gave you")));
                    return self.status.borrow().clone();
                }
                Err(error) => self.after(&error, &mut from_state, &mut retry),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn count_end(&self, outcome: &Result<Ended, ReceiveError>) {
        let Some(meter) = &self.meter else { return };
        match outcome {
            Ok(Ended::ToAsk) => {}
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

    /// A stream broke: what becomes of the next one, and how long to wait for it.
    fn after(&self, error: &ReceiveError, from_state: &mut bool, retry: &mut Retry) -> Duration {
        let code = match error {
            ReceiveError::Client(client) => client.problem().map(|problem| problem.code),
            _ => None,
        };
        let text = match self.identity.expired() {
            None => error.to_string(),
            Some(until) => {
                format!("our certificate was good until {until}; have a new one issued ({error})")
            }
        };
        match code {
            Some(ErrorCode::CursorTooOld | ErrorCode::CursorForeign | ErrorCode::CursorMalformed) => {
                tracing::warn!(agreement = %self.number, %error, "begins again from the state");
                *from_state = true;
                self.tell(Phase::Connecting, Some(text));
                retry.next_wait()
            }
            Some(ErrorCode::RegisterIncomplete) => {
                tracing::warn!(agreement = %self.number, %error, "keeps its replica as it is");
                self.tell(Phase::Waiting, Some(text));
                NOT_ACTIVE_WAIT
            }
            Some(ErrorCode::AgreementNotActive | ErrorCode::SchemaMismatch | ErrorCode::NotPermitted) => {
                tracing::warn!(agreement = %self.number, %error, "waits for the agreement");
                self.tell(Phase::Waiting, Some(text));
                NOT_ACTIVE_WAIT
            }
            _ => {
                let wait = retry.next_wait();
                tracing::warn!(agreement = %self.number, %error, ?wait, "the stream broke");
                self.tell(Phase::Connecting, Some(text));
                wait
            }
        }
    }

    async fn stream(
        &mut self,
        cursor: Option<Cursor>,
        reconciling: &mut Reconciling,
        is_live: &mut bool,
    ) -> Result<Ended, ReceiveError> {
        let meter = self.meter.clone();
        // A client of its own: a slow reader would starve other streams of one connection.
        let client = Client::new(&self.router, &self.identity)?;
        let (number, status, file) = (&self.number, &self.status, self.status_file.as_deref());
        let before = status.borrow().delivered;
        let mut written: Option<tokio::time::Instant> = None;
        let mut on_progress =
            |machine: &ReceiveMachine, sink: &dyn Sink, checked: Option<Checked>, moment: Moment| {
                *is_live |= machine.is_live();
                if let (Some(meter), Moment::Applied(took)) = (&meter, moment) {
                    meter.applied(took);
                }
                if let Some(checked) = checked.filter(|checked| status.borrow().checked != Some(*checked)) {
                    tell_checked(number, &checked, meter.as_ref());
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
                    status.checked = checked.or(status.checked);
                    status.last_error = None;
                });
                if moment == Moment::Settled || written.is_none_or(|at| at.elapsed() >= STATUS_EVERY) {
                    status.borrow().write(file);
                    written = Some(tokio::time::Instant::now());
                }
            };
        let sink = self.sink.as_mut();
        let outcome =
            receive(&client, number, cursor, sink, (reconciling, &self.wish), &mut on_progress).await;
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

fn has_ended(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.code == ErrorCode::AgreementEnded)
}

/// Agents that begin together do not compare together: a share of the time between comparisons, in thousandths.
fn share() -> u32 {
    // Without randomness the first comparison comes last.
    platform::random::bytes().map_or(1_000, |bytes| u32::from(u16::from_be_bytes(bytes)) * 1_000 / 65_536)
}

fn tell_checked(number: &AgreementNumber, checked: &Checked, meter: Option<&AgreementMeter>) {
    let Checked { equal, rows, mended, bytes, .. } = checked;
    if *equal {
        tracing::info!(agreement = %number, rows, mended, bytes, "the replica equals its part of the register");
    } else {
        tracing::error!(agreement = %number, rows, mended, bytes, "the replica differs from its part of the register, also after it was mended: see who else writes it, or begin it anew");
    }
    if let Some(meter) = meter {
        meter.checked(checked);
    }
}

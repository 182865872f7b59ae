//! The pump of one stream: takes chunks, asks the scopes, fills frames.
//!
//! Owns the order of a stream: snapshot between its marks, then each partition's events in log order, progress after
//! each chunk that gave some, one closing record. Its queue to the connection is bounded; a slow consumer stops only
//! this pump.

mod deliver;
mod progress;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use platform::connection_reset::ConnectionReset;
use platform::traces::StageSpan;
use schemas::cursor::{Place, Snapshot};
use schemas::delivery::{CloseReason, Delivery};
use schemas::ids::{AgentId, Offset};
use schemas::per_partition::PerPartition;
use scope::permit::{Deliveries, Permitted};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::progress::ProgressTimer;
use super::admissions::Admission;
use super::encode::{Encoder, Frame};
use super::gate::{Closed, Gate};
use super::reconcile::{Gathered, PendingReconciliation};
use super::start::Beginning;
use super::stop::{Stop, close};
use crate::audit::chain::Event;
use crate::audit::service::Audit;
use crate::control::view::ControlView;
use crate::fanout::Subscription;
use crate::fanout::subscriber::{Next, Subscriber};
use crate::grants::Grant;
use crate::metrics::{Passed, StreamMeter};

/// Frames that wait for the connection.
pub const QUEUE_FRAMES: usize = 2;
/// How long a stream may take to drain after its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What the pump gives to the connection.
#[derive(Debug)]
pub enum Outbound {
    /// Bytes to hand over.
    Frame(Frame),
    /// The stream is over.
    Close(Closed),
}

/// What a pump is made of.
pub struct SessionParts {
    pub encoder: Encoder,
    pub grant: Grant,
    /// The stream's subscription at the tails.
    pub subscription: Subscription,
    /// Control, for schemas that are new on the stream.
    pub view: watch::Receiver<Arc<ControlView>>,
    /// Whether the agreement is in force.
    pub gate: Gate,
    /// To the connection.
    pub out: mpsc::Sender<Outbound>,
    /// The consumer's places so far.
    pub places: PerPartition<Place>,
    /// Records how the stream ended.
    pub audit: Audit,
    /// Whose stream it is.
    pub agent: AgentId,
    /// Breaks the connection of a peer that does not read.
    pub connection: ConnectionReset,
    pub meter: StreamMeter,
    /// What the consumer asked for.
    pub reconciliation: PendingReconciliation,
    /// Held as long as the stream is open.
    pub admission: Admission,
}

/// The pump of one stream.
pub struct Session {
    encoder: Encoder,
    grant: Grant,
    subscription: Subscription,
    view: watch::Receiver<Arc<ControlView>>,
    gate: Gate,
    out: mpsc::Sender<Outbound>,
    places: PerPartition<Place>,
    /// From here on nothing was given: a stream may end within a block.
    given: PerPartition<Offset>,
    /// The snapshot that is under way.
    snapshot: Option<Snapshot>,
    audit: Audit,
    agent: AgentId,
    connection: ConnectionReset,
    meter: StreamMeter,
    /// The delivery that is being judged: only its memory is used again.
    deliveries: Permitted<Deliveries>,
    /// Spans of traced deliveries in the frame being filled.
    followed: Vec<StageSpan>,
    progress_timer: ProgressTimer,
    reconciliation: PendingReconciliation,
    _admission: Admission,
}

impl Session {
    /// Nothing has been sent yet.
    pub fn new(parts: SessionParts) -> Self {
        let SessionParts { encoder, grant, subscription, view, gate, out, places, .. } = parts;
        let progress_timer = ProgressTimer::start(subscription.of_channel());
        let SessionParts { audit, agent, connection, meter, reconciliation, admission, .. } = parts;
        Self {
            encoder,
            grant,
            subscription,
            view,
            gate,
            out,
            given: places.values().map(|place| place.offset).collect(),
            places,
            snapshot: None,
            audit,
            agent,
            connection,
            meter,
            deliveries: Permitted::none(),
            followed: Vec::new(),
            progress_timer,
            reconciliation,
            _admission: admission,
        }
    }

    /// Pumps until the stream is over or the connection is gone.
    pub async fn run(mut self, beginning: Beginning, stopping: impl Future<Output = ()>) {
        let out = self.out.clone();
        let gate = self.gate.clone();
        let stop = tokio::select! {
            biased;
            closed = gate.until_closed() => Stop::Close(closed),
            () = stopping => close(CloseReason::Draining, "this router is stopping"),
            stop = self.pump(beginning) => stop,
        };
        let ended = self.ended(&stop);
        if let Event::Ended { reason, .. } = &ended {
            self.meter.ended(reason);
        }
        self.audit.note(ended).await;
        if let Stop::Close(closed) = stop {
            let closing = async {
                // A connection that has ended needs no closing record.
                drop(out.send(Outbound::Close(closed)).await);
                out.closed().await;
            };
            // A peer that does not read is not waited for (docs/protocol.md, 6).
            if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
                tracing::warn!(agent = %self.agent, agreement = %self.gate.number(), "a stream did not drain; its connection is reset");
                self.connection.reset();
            }
        }
    }

    fn ended(&self, stop: &Stop) -> Event {
        let reason = match stop {
            Stop::Close(closed) => closed.reason.as_str(),
            // The gate closes the connection before the pump knows.
            Stop::Gone => self.gate.closed().map_or("disconnected", |closed| closed.reason.as_str()),
        };
        Event::Ended {
            agreement: self.gate.number().clone(),
            version: self.gate.version(),
            agent: self.agent.clone(),
            reason: reason.to_owned(),
            places: self.reached(),
            snapshot: self.snapshot.clone(),
        }
    }

    /// The places that nothing was given behind: the audit says the most that the consumer may have.
    fn reached(&self) -> PerPartition<Place> {
        let behind = |(place, given): (&Place, &Offset)| Place { offset: place.offset.max(*given), ..*place };
        self.places.values().zip(self.given.values()).map(behind).collect()
    }

    async fn pump(&mut self, beginning: Beginning) -> Stop {
        let followers = match beginning {
            Beginning::Log(followers) => Ok(followers),
            Beginning::State(snapshot, snapshots) => self.bootstrap(snapshot, snapshots).await,
        };
        let mut subscribers: PerPartition<_> = match followers {
            Ok(followers) => followers.into_values().map(Subscriber::new).collect(),
            Err(stop) => return stop,
        };
        let passed = |subscriber: &Subscriber| {
            let follower = subscriber.follower();
            Passed { to: follower.place().offset, at: follower.fold().passed_at }
        };
        self.meter.begun(subscribers.values().map(passed).collect());
        let view = Arc::clone(&self.view.borrow());
        // Before its first chunk comes: that would wake every stream of the channel, whatever is in it.
        if let Some((schema, scope)) = self.grant.newest(&view) {
            self.subscription.add(schema, &scope);
        }
        loop {
            if let Err(stop) = self.turn(&mut subscribers).await {
                return stop;
            }
        }
    }

    /// Takes the next chunks, or waits for them.
    async fn turn(&mut self, subscribers: &mut PerPartition<Subscriber>) -> Result<(), Stop> {
        self.answer_if_due().await?;
        let has_gone_on = self.round(subscribers).await?;
        // After the round: progress reports the place, and its distance from the tail.
        self.report_if_due(subscribers).await?;
        if has_gone_on { Ok(()) } else { self.idle(subscribers).await }
    }

    /// Takes one chunk from each partition that has one; `true` if any moved.
    async fn round(&mut self, subscribers: &mut PerPartition<Subscriber>) -> Result<bool, Stop> {
        let mut any = false;
        for (partition, subscriber) in subscribers.iter_mut() {
            let gave = match subscriber.next(&self.subscription).await? {
                Next::Chunk(chunk) => self.deliver(partition, &chunk, subscriber.follower().wanted()).await?,
                Next::Passed { changes } => {
                    self.meter.denied(changes);
                    false
                }
                Next::Nothing => {
                    self.stand_at_end(partition, subscriber);
                    continue;
                }
            };
            any = true;
            self.pass_by(partition, subscriber.follower());
            if gave {
                self.progress(partition, subscriber.follower())?;
                self.flush_if_full().await?;
            } else {
                self.progress_timer.has_moved = true;
            }
        }
        if any {
            self.flush().await?;
        }
        Ok(any)
    }

    /// Answers the reconciliation, once the stream has passed the state that it read.
    async fn answer_if_due(&mut self) -> Result<(), Stop> {
        let Some(reconciliation) = self.reconciliation.due_at(&self.places)? else { return Ok(()) };
        let answer = reconciliation.roll_to(&self.places).await?;
        self.flush().await?;
        match answer {
            Gathered::Digests(digests) => {
                let places = self.places.clone();
                let announced = digests.announce();
                self.encoder.mark(&Delivery::Digests { places, announced })?;
            }
            Gathered::Rows(gathered) => {
                for (number, rows) in gathered.ranges()? {
                    self.encoder.range(number, rows.into_iter())?;
                    self.flush_if_full().await?;
                }
            }
        }
        self.flush().await
    }

    /// Waits until there is something for this stream, or the next look at the tails is due.
    async fn idle(&mut self, subscribers: &PerPartition<Subscriber>) -> Result<(), Stop> {
        let lost = |subscriber: &Subscriber| subscriber.follower().feed().tail().lost();
        if let Some(fault) = subscribers.values().find_map(lost) {
            return Err(close(CloseReason::Internal, fault.to_string()));
        }
        if !subscribers.values().all(Subscriber::is_waiting) {
            return Ok(());
        }
        let look = self.progress_timer.due().min(Instant::now() + self.progress_timer.passing);
        tokio::select! {
            biased;
            () = self.out.closed() => Err(Stop::Gone),
            () = tokio::time::sleep_until(look) => Ok(()),
            ready = self.reconciliation.moved() => Ok(ready?),
            () = self.subscription.notified() => Ok(()),
        }
    }

    async fn flush_if_full(&mut self) -> Result<(), Stop> {
        if self.encoder.is_full() { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let rows = self.encoder.rows();
        match self.encoder.take() {
            Some(bytes) => self.send(bytes, rows).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, bytes: bytes::Bytes, rows: usize) -> Result<(), Stop> {
        if let Some(closed) = self.gate.closed() {
            return Err(Stop::Close(closed));
        }
        let followed = std::mem::take(&mut self.followed);
        let frame = Frame { bytes, places: self.places.clone(), rows, followed };
        self.out.send(Outbound::Frame(frame)).await.map_err(|_| Stop::Gone)
    }
}

#[cfg(test)]
mod tests;

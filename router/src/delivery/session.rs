//! The pump of one stream: takes chunks, asks the scopes, fills frames.
//!
//! Owns the order of a stream: bootstrap between its marks, then each partition's events in log order, each chunk
//! that gave some with its progress, one closing record. Its queue to the connection is bounded; a slow consumer
//! stops only this pump.

use std::sync::Arc;
use std::time::Duration;

use platform::clock::now;
use platform::traces::{Step as Way, Stepping};
use schemas::cursor::{Pass, Place};
use schemas::delivery::{CloseReason, Delivery, Progress};
use schemas::ids::{AgentId, Offset, Partition};
use schemas::per_partition::PerPartition;
use scope::permit::{Outcome, Permitted, Standing};
use scope::scope::Scope;
use tokio::sync::{mpsc, watch};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::admissions::Admission;
use super::encode::{Encoder, Frame};
use super::gate::{Gate, Shut};
use super::parked::Parked;
use super::reckoning::{Answer, Question};
use super::scopes::Scopes;
use super::start::Beginning;
use super::stop::{Stop, close};
use crate::audit::chain::Event;
use crate::audit::service::Audit;
use crate::channel::audience::Seat;
use crate::channel::follower::Follower;
use crate::channel::judged::Gain;
use crate::channel::listener::{Listener, Next};
use crate::channel::reader::{Chunk, Item, Judgeable};
use crate::control::view::ControlView;
use crate::http::server::Reset;
use crate::metrics::{Passed, StreamMeter};
use crate::state::bootstrap::Bootstrap;

/// Frames that wait for the connection.
pub const QUEUE_FRAMES: usize = 2;
/// Progress is told at least so often, also when nothing happens: a silent stream is a stalled one.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Progress through events that are not the consumer's is told so often at most: a thousand streams that get
/// nothing would else send a thousand frames for each event.
const PASSING: Duration = Duration::from_secs(1);
/// How long a stream may take to drain after its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What the pump gives to the connection.
#[derive(Debug)]
pub enum Step {
    /// Bytes to hand over.
    Frame(Frame),
    /// The stream is over.
    Close(Shut),
}

/// When progress was told last.
pub(crate) struct Telling {
    at: Instant,
    /// Whether events were passed by since.
    owed: bool,
}

impl Telling {
    pub(crate) fn new() -> Self {
        Self { at: Instant::now(), owed: false }
    }

    fn due(&self) -> Instant {
        self.at + if self.owed { PASSING } else { HEARTBEAT }
    }
}

/// The pump of one stream.
pub struct Session {
    pub(crate) encoder: Encoder,
    pub(crate) scopes: Scopes,
    /// Where it listens at the tail.
    pub(crate) seat: Seat,
    pub(crate) view: watch::Receiver<Arc<ControlView>>,
    pub(crate) gate: Gate,
    pub(crate) out: mpsc::Sender<Step>,
    pub(crate) places: PerPartition<Place>,
    /// The pass from the state that is under way.
    pub(crate) pass: Option<Pass>,
    pub(crate) audit: Audit,
    pub(crate) agent: AgentId,
    pub(crate) reset: Reset,
    pub(crate) meter: StreamMeter,
    /// Deliveries of the frame being filled that somebody follows.
    pub(crate) followed: Vec<Stepping>,
    pub(crate) telling: Telling,
    pub(crate) question: Question,
    /// Held as long as the stream is open.
    pub(crate) _admission: Admission,
}

impl Session {
    /// Pumps until the stream is over or the connection is gone.
    pub async fn run(mut self, beginning: Beginning, stopping: impl Future<Output = ()>) {
        let out = self.out.clone();
        let gate = self.gate.clone();
        let stop = tokio::select! {
            biased;
            shut = gate.until_shut() => Stop::Close(shut),
            () = stopping => close(CloseReason::Draining, "this router is stopping"),
            stop = self.pump(beginning) => stop,
        };
        let ended = self.ended(&stop);
        if let Event::Ended { reason, .. } = &ended {
            self.meter.ended(reason);
        }
        self.audit.note(ended).await;
        if let Stop::Close(shut) = stop {
            let told = async {
                // When the connection is gone too, there is nobody to tell.
                drop(out.send(Step::Close(shut)).await);
                out.closed().await;
            };
            // A peer that does not read is not waited for (protocols, 6).
            if tokio::time::timeout(CLOSE_LIMIT, told).await.is_err() {
                tracing::warn!(agent = %self.agent, agreement = %self.gate.number(), "a stream did not drain; its connection is reset");
                self.reset.reset();
            }
        }
    }

    fn ended(&self, stop: &Stop) -> Event {
        let reason = match stop {
            Stop::Close(shut) => shut.reason.as_str(),
            // The gate closes the connection before the pump knows.
            Stop::Gone => self.gate.shut().map_or("disconnected", |shut| shut.reason.as_str()),
        };
        Event::Ended {
            agreement: self.gate.number().clone(),
            version: self.gate.version(),
            agent: self.agent.clone(),
            reason: reason.to_owned(),
            places: self.places.clone(),
            pass: self.pass.clone(),
        }
    }

    async fn pump(&mut self, beginning: Beginning) -> Stop {
        let followers = match beginning {
            Beginning::Log(followers) => Ok(followers),
            Beginning::State(pass, passes) => self.bootstrap(pass, passes).await,
        };
        let mut listeners: PerPartition<_> = match followers {
            Ok(followers) => followers.into_values().map(Listener::new).collect(),
            Err(stop) => return stop,
        };
        let passed = |listener: &Listener| {
            let follower = listener.follower();
            Passed { to: follower.place().offset, at: follower.fold().passed_at }
        };
        self.meter.begun(listeners.values().map(passed).collect());
        loop {
            if let Err(stop) = self.turn(&mut listeners).await {
                return stop;
            }
        }
    }

    /// Goes on where anything is to be had, or waits for it.
    async fn turn(&mut self, listeners: &mut PerPartition<Listener>) -> Result<(), Stop> {
        self.answer_if_due().await?;
        let has_gone_on = self.round(listeners).await?;
        // Behind the round: what is told is the place, and how far that is from the tail.
        self.tell_if_due(listeners).await?;
        if has_gone_on { Ok(()) } else { self.idle(listeners).await }
    }

    async fn bootstrap(
        &mut self,
        mut told: Pass,
        mut passes: PerPartition<Bootstrap>,
    ) -> Result<PerPartition<Follower>, Stop> {
        let id = told.id;
        self.pass = Some(told.clone());
        self.encoder.mark(&Delivery::Begin { bootstrap: id })?;
        self.flush().await?;
        for partition in passes.iter().map(|(partition, _)| partition).collect::<Vec<_>>() {
            while let Some(pass) = passes.get_mut(partition)
                && let Some(images) = pass.next().await?
            {
                for image in images {
                    // Others on this thread have their turns.
                    consume_budget().await;
                    match image {
                        Ok(present) => {
                            let view = Arc::clone(&self.view.borrow());
                            let scope = self.scopes.scope(&view, present.schema, present.codec())?;
                            let standing = Standing {
                                partition,
                                offset: present.offset,
                                event_at: present.event_at,
                                logged_at: present.logged_at,
                                trace: None,
                            };
                            match scope.judge_present(&present.key, present.image()) {
                                Ok(Some(permitted)) => match self.encoder.event(&permitted, standing) {
                                    Ok(()) => self
                                        .meter
                                        .delivered(permitted.get().reason(), !scope.pending().is_empty()),
                                    Err(error) => self.park(partition, present.offset, &error.into()),
                                },
                                Ok(None) => self.meter.denied(1),
                                Err(denial) => self.park(partition, present.offset, &denial.into()),
                            }
                        }
                        Err(unreadable) => {
                            self.park(partition, unreadable.offset, &Parked::Unreadable(unreadable.reason));
                        }
                    }
                    self.flush_if_full().await?;
                }
                // Also where a narrow scope gives nothing: silence would be taken for a stall.
                told.places = passes.values().map(Bootstrap::place).collect();
                self.pass = Some(told.clone());
                self.encoder.mark(&Delivery::Pass(told.clone()))?;
                self.flush().await?;
            }
        }
        let followers: PerPartition<_> = passes.into_values().map(Bootstrap::into_follower).collect();
        self.places = followers.values().map(Follower::place).collect();
        self.pass = None;
        self.encoder.mark(&Delivery::End { bootstrap: id, places: self.places.clone() })?;
        self.flush().await?;
        Ok(followers)
    }

    /// One chunk from each partition that has one; whether any has gone on.
    async fn round(&mut self, listeners: &mut PerPartition<Listener>) -> Result<bool, Stop> {
        let mut any = false;
        for (partition, listener) in listeners.iter_mut() {
            let gave = match listener.next(&self.seat).await? {
                Next::Chunk(chunk) => self.deliver(partition, &chunk, listener.follower().wanted()).await?,
                Next::Passed { changes } => {
                    self.meter.denied(changes);
                    false
                }
                Next::Nothing => {
                    self.stand_at_end(partition, listener);
                    continue;
                }
            };
            any = true;
            self.pass_by(partition, listener.follower());
            if gave {
                self.progress(partition, listener.follower())?;
                self.flush_if_full().await?;
            } else {
                self.telling.owed = true;
            }
        }
        if any {
            self.flush().await?;
        }
        Ok(any)
    }

    /// Tells what was asked for, once the stream stands where that can be said.
    async fn answer_if_due(&mut self) -> Result<(), Stop> {
        let Some(reckoning) = self.question.due_at(&self.places)? else { return Ok(()) };
        let answer = reckoning.roll_to(&self.places).await?;
        self.flush().await?;
        match answer {
            Answer::Sums(sums) => {
                let (places, announced) = (self.places.clone(), sums.announce());
                self.encoder.mark(&Delivery::Sums { places, announced })?;
            }
            Answer::Rows(gathered) => {
                for (number, rows) in gathered.ranges()? {
                    self.encoder.range(number, rows.into_iter())?;
                    self.flush_if_full().await?;
                }
            }
        }
        self.flush().await
    }

    /// Delivers what a chunk gives the consumer; whether that is anything.
    async fn deliver(&mut self, partition: Partition, chunk: &Chunk, wanted: Offset) -> Result<bool, Stop> {
        let judged = chunk.judged.as_ref().filter(|_| wanted <= chunk.first);
        match judged.and_then(|judged| self.seat.gains(judged)) {
            Some((gains, nothing)) => self.take_gains(partition, chunk, gains, nothing).await,
            None => self.judge(partition, chunk, wanted).await,
        }
    }

    /// What was judged once, for all who listen.
    async fn take_gains(
        &mut self,
        partition: Partition,
        chunk: &Chunk,
        gains: Vec<&(usize, Gain)>,
        nothing: usize,
    ) -> Result<bool, Stop> {
        self.meter.denied(u64::try_from(nothing).unwrap_or(u64::MAX));
        let view = Arc::clone(&self.view.borrow());
        let mut gave = false;
        for (at, gain) in gains {
            consume_budget().await;
            let Some(Item::Change(event)) = chunk.items.get(*at) else { continue };
            match gain {
                Ok(permitted) => {
                    gave = true;
                    let scope = self.scopes.scope(&view, event.schema, event.codec())?;
                    self.give(partition, event, permitted, &scope).await?;
                }
                Err(denial) => self.park_event(partition, event, &denial.clone().into()),
            }
        }
        Ok(gave)
    }

    /// Judges a chunk by itself, and listens at the tail for the next ones.
    async fn judge(&mut self, partition: Partition, chunk: &Chunk, wanted: Offset) -> Result<bool, Stop> {
        let view = Arc::clone(&self.view.borrow());
        let mut gave = false;
        for item in &chunk.items {
            consume_budget().await;
            match item {
                Item::Change(event) if event.offset >= wanted => {
                    let scope = self.scopes.scope(&view, event.schema, event.codec())?;
                    self.seat.listen(event.schema, &scope);
                    match scope.judge(event.op, &event.key, &event.images()) {
                        Ok(Some(permitted)) => {
                            gave = true;
                            self.give(partition, event, &permitted, &scope).await?;
                        }
                        Ok(None) => self.meter.denied(1),
                        Err(denial) => self.park_event(partition, event, &denial.into()),
                    }
                }
                Item::Resync { offset, reason } if *offset >= wanted => {
                    return Err(close(CloseReason::Resync, reason.clone()));
                }
                Item::Change(_) | Item::Resync { .. } | Item::Poison { .. } => {}
            }
        }
        Ok(gave)
    }

    async fn give(
        &mut self,
        partition: Partition,
        event: &Judgeable,
        permitted: &Permitted<Outcome>,
        scope: &Scope,
    ) -> Result<(), Stop> {
        let standing = Standing {
            partition,
            offset: event.offset,
            event_at: event.event_at,
            logged_at: event.logged_at,
            trace: event.trace,
        };
        if let Err(error) = self.encoder.event(permitted, standing) {
            self.park_event(partition, event, &error.into());
            return Ok(());
        }
        self.meter.delivered(permitted.get().reason(), !scope.pending().is_empty());
        self.followed.extend(self.follow(partition, event));
        self.stand_behind(partition, event.offset);
        self.flush_if_full().await
    }

    fn park_event(&self, partition: Partition, event: &Judgeable, why: &Parked) {
        match self.follow(partition, event) {
            None => self.park(partition, event.offset, why),
            Some(step) => {
                step.failed("parked");
                step.in_scope(|| self.park(partition, event.offset, why));
            }
        }
    }

    /// What cannot be judged or written neither blocks its channel nor leaks.
    fn park(&self, partition: Partition, offset: Offset, why: &Parked) {
        self.meter.parked(why.as_str());
        tracing::error!(%partition, %offset, reason = %why, "parked an event that cannot be delivered");
    }

    /// What is handed over counts as delivered, also where the chunk that it stands in is not over.
    fn stand_behind(&mut self, partition: Partition, offset: Offset) {
        if let Some(known) = self.places.get_mut(partition) {
            known.offset = known.offset.max(offset.next());
        }
    }

    /// The stream stands behind what the follower has read.
    fn pass_by(&mut self, partition: Partition, follower: &Follower) {
        let place = follower.place();
        if let Some(known) = self.places.get_mut(partition) {
            *known = place;
        }
        self.meter.passed(partition, Passed { to: place.offset, at: follower.fold().passed_at });
    }

    /// Everything that the log took until now has been passed.
    fn stand_at_end(&self, partition: Partition, listener: &Listener) {
        if listener.is_asleep() {
            let passed = Passed { to: listener.follower().place().offset, at: Some(now()) };
            self.meter.passed(partition, passed);
        }
    }

    fn progress(&mut self, partition: Partition, follower: &Follower) -> Result<(), Stop> {
        let place = follower.place();
        let (freshness, passed_at) = (follower.fold().freshness, follower.fold().passed_at);
        let end = follower.feed().tail().next.max(place.offset);
        self.encoder.mark(&Delivery::Progress(Progress { partition, place, freshness, end, passed_at }))?;
        Ok(())
    }

    /// Tells the progress of every partition, when it is time.
    async fn tell_if_due(&mut self, listeners: &PerPartition<Listener>) -> Result<(), Stop> {
        if Instant::now() < self.telling.due() {
            return Ok(());
        }
        for (partition, listener) in listeners.iter() {
            self.progress(partition, listener.follower())?;
        }
        self.telling = Telling::new();
        self.flush().await
    }

    /// Waits until there is something for this stream, or it is time to look where the tails are.
    async fn idle(&mut self, listeners: &PerPartition<Listener>) -> Result<(), Stop> {
        let lost = |listener: &Listener| listener.follower().feed().tail().lost();
        if let Some(fault) = listeners.values().find_map(lost) {
            return Err(close(CloseReason::Internal, fault.to_string()));
        }
        if !listeners.values().all(Listener::is_asleep) {
            return Ok(());
        }
        let look = self.telling.due().min(Instant::now() + PASSING);
        tokio::select! {
            biased;
            () = self.out.closed() => Err(Stop::Gone),
            () = tokio::time::sleep_until(look) => Ok(()),
            reckoned = self.question.moved() => Ok(reckoned?),
            () = self.seat.called() => Ok(()),
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

    /// The delivery of an event that somebody follows.
    fn follow(&self, partition: Partition, event: &Judgeable) -> Option<Stepping> {
        let step =
            Stepping::on(Way::Deliver, event.trace.as_ref(), self.scopes.channel().as_str(), partition)?;
        let step = step.with("dit.agreement", self.gate.number().to_string());
        Some(step.with("messaging.kafka.offset", i64::try_from(event.offset.get()).unwrap_or(i64::MAX)))
    }

    async fn send(&mut self, bytes: bytes::Bytes, rows: usize) -> Result<(), Stop> {
        if let Some(shut) = self.gate.shut() {
            return Err(Stop::Close(shut));
        }
        let followed = std::mem::take(&mut self.followed);
        let frame = Frame { bytes, places: self.places.clone(), rows, followed };
        self.out.send(Step::Frame(frame)).await.map_err(|_| Stop::Gone)
    }
}

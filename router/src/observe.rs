//! A router as monitoring sees it: the present values of its gauges, and whether it can serve.
//!
//! Owns the readings for each request of a monitor. It changes nothing and never answers from earlier readings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use platform::clock;
use platform::observe::{Check, Observed};
use schemas::agreement::Status;
use schemas::ids::{AgreementNumber, Offset, Partition};
use schemas::time::Millis;

use crate::channels::Running;
use crate::control::service::TOPIC as CONTROL_TOPIC;
use crate::fanout::observer::Feed;
use crate::metrics::{Metrics, Stream, labels, of};
use crate::service::Core;

/// How long the log may take to answer: monitoring gives up after about ten seconds.
const LOG_LIMIT: Duration = Duration::from_secs(3);

/// Reads a router's metrics and checks.
pub struct Watch {
    core: Core,
    /// One reading at a time: each reading sets the gauges anew.
    looking: Mutex<()>,
}

impl Watch {
    /// A watch over a router's core.
    pub const fn new(core: Core) -> Self {
        Self { core, looking: Mutex::new(()) }
    }

    fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    fn look_at_channels(&self) {
        let gauges = self.metrics().gauges();
        for family in [&gauges.freshness, &gauges.newest, &gauges.fault, &gauges.state_lag, &gauges.overtaken]
        {
            family.reset();
        }
        for channel in self.core.channels.faults().keys() {
            gauges.fault.with_label_values(&[channel.as_str()]).set(1.0);
        }
        for running in self.core.channels.all() {
            let channel = running.entry.channel.name.as_str();
            let tails: Vec<_> = running.feeds.values().map(|feed| feed.tail()).collect();
            if let Some(oldest) = tails.iter().map(|tail| tail.fold.freshness).min().flatten() {
                let source = [channel, running.entry.channel.owner.as_str()];
                gauges.freshness.with_label_values(&source).set(seconds(oldest));
            }
            if let Some(newest) = tails.iter().filter_map(|tail| tail.fold.passed_at).max() {
                gauges.newest.with_label_values(&[channel]).set(seconds(newest));
            }
            let is_faulty = tails.iter().any(|tail| tail.fault.is_some());
            gauges.fault.with_label_values(&[channel]).set(f64::from(u8::from(is_faulty)));
            let known: Vec<_> = running.materialised.values().map(|state| state.progress()).collect();
            let lag = tails.iter().zip(&known).map(|(tail, state)| distance(state.to, tail.next)).sum();
            gauges.state_lag.with_label_values(&[channel]).set(number(lag));
            let is_overtaken = known.iter().any(|state| state.overtaken.is_some());
            gauges.overtaken.with_label_values(&[channel]).set(f64::from(u8::from(is_overtaken)));
        }
    }

    fn look_at_agreements(&self) {
        let gauges = self.metrics().gauges();
        for family in [
            &gauges.active,
            &gauges.ends,
            &gauges.names,
            &gauges.streams,
            &gauges.lag_records,
            &gauges.lag_seconds,
        ] {
            family.reset();
        }
        let view = self.core.control.view();
        let now = self.core.lease.log_time();
        let open = self.metrics().open_streams();
        for participant in view.participants.values() {
            gauges.names.with_label_values(&[participant.id.as_str(), &participant.name]).set(1.0);
        }
        for entry in view.agreements.values() {
            let agreement = &entry.agreement;
            let labels = labels(agreement);
            let streams = of_agreement(&open, &agreement.number);
            let is_active = entry.status == Status::Active && agreement.is_valid_at(now);
            of(&gauges.active, &labels).set(f64::from(u8::from(is_active)));
            if let Some(end) = agreement.valid_to.filter(|_| entry.status == Status::Active) {
                of(&gauges.ends, &labels).set(seconds(end.into()));
            }
            of(&gauges.streams, &labels).set(number(u64::try_from(streams.len()).unwrap_or(u64::MAX)));
            let Some(running) = self.core.channels.get(&agreement.channel) else { continue };
            let lags = streams.iter().map(|stream| lag(stream, &running, now));
            // The best stream counts: a slow second reader delays no replica.
            let best = lags.min_by(|one, other| one.seconds.total_cmp(&other.seconds));
            if let Some(best) = best {
                of(&gauges.lag_seconds, &labels).set(best.seconds);
                if let Some(records) = best.records {
                    of(&gauges.lag_records, &labels).set(number(records));
                }
            }
        }
    }

    fn look_at_log(&self) {
        let gauges = self.metrics().gauges();
        let holds = self.core.lease.holds(self.core.control.view().applied);
        gauges.lease.with_label_values::<&str>(&[]).set(f64::from(u8::from(holds)));
        for family in [&gauges.kafka_brokers, &gauges.kafka_queue, &gauges.kafka_rtt, &gauges.kafka_timeouts]
        {
            family.reset();
        }
        for client in self.core.channels.log().clients() {
            let name = [client.name.as_str()];
            gauges.kafka_brokers.with_label_values(&name).set(number(client.brokers_up));
            gauges.kafka_queue.with_label_values(&name).set(number(client.queued));
            gauges.kafka_rtt.with_label_values(&name).set(client.round_trip.as_secs_f64());
            gauges.kafka_timeouts.with_label_values(&name).set(number(client.timeouts));
        }
    }
}

#[async_trait]
impl Observed for Watch {
    async fn metrics(&self) -> String {
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics().vitals().refresh();
        self.look_at_channels();
        self.look_at_agreements();
        self.look_at_log();
        self.metrics().render()
    }

    async fn checks(&self) -> Vec<Check> {
        let log = self.core.channels.log();
        let asked = tokio::time::timeout(LOG_LIMIT, log.bounds(CONTROL_TOPIC, Partition::new(0))).await;
        let log = match asked {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", LOG_LIMIT.as_secs())),
        };
        let holds = self.core.lease.holds(self.core.control.view().applied);
        let lease = (!holds).then(|| "this router has not read its own last beat back from the log in time, so it hands over no data".to_owned());
        let mut faults: Vec<String> =
            self.core.channels.all().iter().filter_map(|running| fault_of(running)).collect();
        faults.extend(self.core.channels.faults().iter().map(|(channel, why)| format!("{channel}: {why}")));
        let mut checks = vec![
            Check::new("log", log),
            Check::new("lease", lease),
            // One channel's fault must not take the router away from all others.
            Check::reported("channels", (!faults.is_empty()).then(|| faults.join("; "))),
            Check::new("registry", self.core.registry.fault().await),
        ];
        checks.extend(self.metrics().vitals().checks());
        checks
    }
}

fn fault_of(running: &Running) -> Option<String> {
    let fault = running.feeds.values().find_map(|feed| feed.tail().fault.clone())?;
    Some(format!("{}: {fault}", running.entry.channel.name))
}

/// How far a stream is behind.
struct Lag {
    seconds: f64,
    /// Not known while a snapshot is under way.
    records: Option<u64>,
}

fn lag(stream: &Stream, running: &Running, now: Millis) -> Lag {
    let passed = stream.passed();
    if passed.is_empty() {
        return Lag { seconds: since(stream.begun_at, clock::now()), records: None };
    }
    let ends = running.feeds.values().map(|feed: &Arc<Feed>| feed.tail().next);
    let mut seconds = 0.0_f64;
    let mut records = 0;
    for (passed, end) in passed.values().zip(ends) {
        let behind = distance(passed.to, end);
        records += behind;
        if behind > 0 {
            seconds = seconds.max(since(passed.at.unwrap_or(stream.begun_at), now));
        }
    }
    Lag { seconds, records: Some(records) }
}

fn of_agreement<'s>(
    open: &'s HashMap<AgreementNumber, Vec<Arc<Stream>>>,
    number: &AgreementNumber,
) -> &'s [Arc<Stream>] {
    open.get(number).map(Vec::as_slice).unwrap_or_default()
}

const fn distance(from: Offset, to: Offset) -> u64 {
    to.get().saturating_sub(from.get())
}

fn since(at: Millis, now: Millis) -> f64 {
    Duration::from_millis(now.since(at)).as_secs_f64()
}

fn seconds(at: Millis) -> f64 {
    number(u64::try_from(at.get()).unwrap_or_default()) / 1_000.0
}

#[allow(clippy::cast_precision_loss, reason = "a gauge has no other number")]
const fn number(count: u64) -> f64 {
    count as f64
}

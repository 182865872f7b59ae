//! The metrics of a consumer agent: call sites report events, and this room decides how they are counted.
//!
//! Owns every series of the agent, except those that each process has. Labels are the agreements of its own
//! configuration, never a key or a value.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use platform::clock;
use platform::identity::Identity;
use platform::metrics::{Meter, MetricsError, Vitals};
use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec};
use schemas::ids::AgreementNumber;
use schemas::promise::Promise;

use crate::phase::Phase;
use crate::receive::reconciler::Reconciled;
use crate::status::Status;

const AGREEMENT: &[&str] = &["agreement"];

/// The agent's series; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    meter: Meter,
    vitals: Vitals,
    deliveries: IntCounterVec,
    applied: HistogramVec,
    breaks: IntCounterVec,
    closed: IntCounterVec,
    phase: GaugeVec,
    rows: GaugeVec,
    parked: GaugeVec,
    reconciled: GaugeVec,
    equal: GaugeVec,
    repaired: IntCounterVec,
    compared: IntCounterVec,
    lag_records: GaugeVec,
    lag_seconds: GaugeVec,
    freshness: GaugeVec,
    heard: GaugeVec,
}

impl Metrics {
    #[rustfmt::skip]
    pub fn new(identity: &Identity, disks: Vec<PathBuf>) -> Result<Self, MetricsError> {
        let mut meter = Meter::new()?;
        let by = |more: &'static str| ["agreement", more];
        Ok(Self(Arc::new(Families {
            vitals: Vitals::new(&mut meter, identity, disks)?,
            deliveries: meter.counter("dit_consumer_deliveries_total", "Events received, by reason: change, enter, leave, state.", &by("reason"))?,
            applied: meter.seconds("dit_consumer_apply_duration_seconds", "From a block's arrival to the sink having it, its cursor included.", AGREEMENT)?,
            breaks: meter.counter("dit_consumer_failures_total", "Streams that broke or were refused, by part: router, stream, sink.", &by("part"))?,
            closed: meter.counter("dit_consumer_streams_closed_total", "Streams that the router closed, by reason.", &by("reason"))?,
            phase: meter.gauge("dit_consumer_phase", "1 for what the agent is doing: connecting, streaming, waiting, ended, stuck, broken.", &by("phase"))?,
            rows: meter.gauge("dit_consumer_replica_rows", "Rows that the replica has.", AGREEMENT)?,
            parked: meter.gauge("dit_consumer_parked_keys", "Keys whose row the sink refuses; later events of them wait, others flow.", AGREEMENT)?,
            reconciled: meter.gauge("dit_consumer_reconciled_timestamp_seconds", "When the replica was last compared with its part of the register.", AGREEMENT)?,
            equal: meter.gauge("dit_consumer_replica_equal", "1 when the replica was found equal to its part of the register, or made so; 0 when it could not be.", AGREEMENT)?,
            repaired: meter.counter("dit_consumer_repaired_rows_total", "Rows of the replica that were found wrong and repaired.", AGREEMENT)?,
            compared: meter.counter("dit_consumer_reconcile_bytes_total", "Bytes that comparing and repairing took.", AGREEMENT)?,
            lag_records: meter.gauge("dit_consumer_lag_records", "Records between the replica and the log's end as last told, whoever they are for.", AGREEMENT)?,
            lag_seconds: meter.gauge("dit_consumer_lag_seconds", "Age of the newest record that the replica includes, while later ones wait; time since the router was last heard, while no stream is open; else 0.", AGREEMENT)?,
            freshness: meter.gauge("dit_consumer_source_freshness_timestamp_seconds", "Up to when the provider had looked at its source, as far as the replica shows it.", AGREEMENT)?,
            heard: meter.gauge("dit_consumer_last_word_timestamp_seconds", "When the agent last had a word from the router, or began.", AGREEMENT)?,
            meter,
        })))
    }

    /// Every family, by name.
    pub fn catalogue(&self) -> String {
        self.0.meter.catalogue()
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    /// What one agreement's agent counts.
    pub fn agreement(&self, number: &AgreementNumber) -> AgreementMeter {
        let meter = AgreementMeter { number: number.to_string(), metrics: self.clone() };
        // A counter must begin at 0: Prometheus does not see the step of one that begins at 1.
        for part in [Part::Router, Part::Stream, Part::Sink] {
            meter.breaks(part);
        }
        for counter in [&self.0.repaired, &self.0.compared] {
            counter.with_label_values(&[number.as_str()]);
        }
        meter
    }

    /// Renders all series, with the agents' present statuses.
    pub(crate) fn render<'s>(&self, all: impl Iterator<Item = &'s Status>) -> String {
        self.0.vitals.refresh();
        for status in all {
            self.look(status);
        }
        self.0.meter.render()
    }

    fn look(&self, status: &Status) {
        let Families { deliveries, phase, rows, parked, lag_records, lag_seconds, freshness, .. } = &*self.0;
        let Families { heard, reconciled, .. } = &*self.0;
        let number = status.agreement.as_str();
        let tally = status.delivered;
        for (reason, count) in [
            ("change", tally.changed),
            ("enter", tally.entered),
            ("leave", tally.left),
            ("state", tally.present),
        ] {
            let counter = deliveries.with_label_values(&[number, reason]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for one in Phase::ALL {
            phase.with_label_values(&[number, one.as_str()]).set(f64::from(u8::from(one == status.phase)));
        }
        let now = clock::now();
        let since = |at| Duration::from_millis(now.since(at)).as_secs_f64();
        let (records, behind) = match (status.phase, status.behind) {
            (Phase::Streaming, Some(behind)) if behind.records > 0 => {
                (behind.records, behind.since.map_or_else(|| since(status.at), since))
            }
            (Phase::Streaming, Some(_)) => (0, 0.0),
            (_, behind) => (behind.map_or(0, |behind| behind.records), since(status.heard_at)),
        };
        lag_records.with_label_values(&[number]).set(float(records));
        lag_seconds.with_label_values(&[number]).set(behind);
        rows.with_label_values(&[number]).set(float(u64::try_from(status.rows).unwrap_or(u64::MAX)));
        parked.with_label_values(&[number]).set(float(u64::try_from(status.parked).unwrap_or(u64::MAX)));
        let seconds = |millis: i64| float(u64::try_from(millis).unwrap_or_default()) / 1_000.0;
        heard.with_label_values(&[number]).set(seconds(status.heard_at.get()));
        if let Some(last) = status.reconciled {
            reconciled.with_label_values(&[number]).set(seconds(last.at.get()));
        }
        if let Some(at) = status.freshness {
            freshness.with_label_values(&[number]).set(seconds(at.get()));
        }
    }
}

/// What one agreement's agent counts.
#[derive(Clone)]
pub struct AgreementMeter {
    number: String,
    metrics: Metrics,
}

/// The part at which a stream broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The router refused, or cannot be reached.
    Router,
    /// The stream broke its rules, or ended early.
    Stream,
    /// The replica's sink failed.
    Sink,
}

impl AgreementMeter {
    /// The sink applied a block.
    pub(crate) fn applied(&self, took: Duration) {
        self.metrics.0.applied.with_label_values(&[&self.number]).observe(took.as_secs_f64());
    }

    pub(crate) fn broke(&self, part: Part) {
        self.breaks(part).inc();
    }

    fn breaks(&self, part: Part) -> IntCounter {
        let part = match part {
            Part::Router => "router",
            Part::Stream => "stream",
            Part::Sink => "sink",
        };
        self.metrics.0.breaks.with_label_values(&[self.number.as_str(), part])
    }

    /// The replica was compared with its part of the register.
    pub(crate) fn reconciled(&self, reconciled: &Reconciled) {
        let Families { equal, repaired, compared, vitals, .. } = &*self.metrics.0;
        let number = [self.number.as_str()];
        equal.with_label_values(&number).set(f64::from(u8::from(reconciled.equal)));
        repaired.with_label_values(&number).inc_by(u64::try_from(reconciled.repaired).unwrap_or(u64::MAX));
        compared.with_label_values(&number).inc_by(reconciled.bytes);
        if !reconciled.equal {
            vitals.break_promise(Promise::ReplicaEquation);
        }
    }

    /// The router closed a stream.
    pub(crate) fn closed(&self, reason: &str) {
        self.metrics.0.closed.with_label_values(&[self.number.as_str(), reason]).inc();
    }

    /// A partition's progress went back.
    pub(crate) fn went_back(&self) {
        self.metrics.0.vitals.break_promise(Promise::KeyOrder);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge has no other number")]
const fn float(count: u64) -> f64 {
    count as f64
}

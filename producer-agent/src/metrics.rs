//! What a producer agent counts: call sites say what happened, this room says how it is counted.
//!
//! Owns every series of the agent, except those that each process has. Never a key, never a value.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use platform::identity::Identity;
use platform::metrics::{Meter, MetricsError, Vitals};
use prometheus::{GaugeVec, HistogramVec, IntCounterVec};

use crate::source::file::drop_folder::Fate;
use crate::source::http::items::ItemResult;
use crate::start::Reopened;
use crate::take::report::FileReport;

/// The agent's series; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    meter: Meter,
    vitals: Vitals,
    changes: IntCounterVec,
    parked: IntCounterVec,
    files: IntCounterVec,
    acknowledged: IntCounterVec,
    failures: IntCounterVec,
    reopens: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    gauges: Gauges,
}

/// The gauges, which are set for each request.
struct Gauges {
    freshness: GaugeVec,
    waiting: GaugeVec,
    bytes: GaugeVec,
    limit: GaugeVec,
    stalled: GaugeVec,
    held: GaugeVec,
    partial: GaugeVec,
    connected: GaugeVec,
}

/// The present values of the gauges.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    /// Entries of the outbox that are not acknowledged.
    pub(crate) waiting: u64,
    /// Bytes of the outbox.
    pub(crate) bytes: u64,
    /// Bytes at which the source is refused.
    pub(crate) limit: u64,
    /// How long entries have waited since the router acknowledged any.
    pub(crate) stalled: Duration,
    /// Files that wait for a person.
    pub(crate) held: u64,
    /// Whether the last whole register was taken in part.
    pub(crate) is_partial: bool,
    /// Whether the router took the last attempt.
    pub(crate) is_connected: bool,
    /// When the source was checked last, in seconds since 1970.
    pub(crate) looked_at: Option<i64>,
}

impl Gauges {
    #[rustfmt::skip]
    fn new(meter: &mut Meter) -> Result<Self, MetricsError> {
        Ok(Self {
            freshness: meter.gauge("dit_producer_source_freshness_timestamp_seconds", "When the source was looked at last: a file that was taken, or a word that nothing has changed.", &[])?,
            waiting: meter.gauge("dit_producer_outbox_waiting_entries", "Entries of the outbox (blocks of events, and freshness) that the router has not acknowledged; 0 while no router was reached.", &[])?,
            bytes: meter.gauge("dit_producer_outbox_bytes", "Bytes of the outbox on disk.", &[])?,
            limit: meter.gauge("dit_producer_outbox_limit_bytes", "Bytes of the outbox at which the source is refused.", &[])?,
            stalled: meter.gauge("dit_producer_outbox_stalled_seconds", "How long entries have waited since the router acknowledged any; 0 when none wait.", &[])?,
            held: meter.gauge("dit_producer_files_held", "Files that wait for a person: held by the guard, or for a change file before them.", &[])?,
            partial: meter.gauge("dit_producer_register_partial", "1 while the last whole register was taken in part: none of its deletes, as a row of it could not be read.", &[])?,
            connected: meter.gauge("dit_producer_connected", "1 while the router takes what is sent.", &[])?,
        })
    }
}

impl Metrics {
    #[rustfmt::skip]
    pub fn new(identity: &Identity, disks: Vec<PathBuf>) -> Result<Self, MetricsError> {
        let mut meter = Meter::new()?;
        let metrics = Self(Arc::new(Families {
            vitals: Vitals::new(&mut meter, identity, disks)?,
            changes: meter.counter("dit_producer_changes_total", "Changes taken into the outbox, by source and operation; a single change is an upsert or a delete.", &["source", "op"])?,
            parked: meter.counter("dit_producer_rows_parked_total", "Rows or single changes that were set aside or refused, by source.", &["source"])?,
            files: meter.counter("dit_producer_files_total", "Dropped files, by fate: taken, held, refused.", &["fate"])?,
            acknowledged: meter.counter("dit_producer_acknowledged_total", "Events that the router has acknowledged.", &[])?,
            failures: meter.counter("dit_producer_send_failures_total", "Attempts to send that the router did not take.", &[])?,
            reopens: meter.counter("dit_producer_reopens_total", "Times the channel was reopened, by reason.", &["reason"])?,
            requests: meter.counter("dit_producer_http_requests_total", "Local requests answered, by route and status.", &["route", "status"])?,
            request_seconds: meter.seconds("dit_producer_http_request_duration_seconds", "From a local request's head to its answer, by route.", &["route"])?,
            gauges: Gauges::new(&mut meter)?,
            meter,
        }));
        // A counter must begin at 0: Prometheus does not see the step of one that begins at 1.
        for source in ["file", "http"] {
            metrics.0.parked.with_label_values(&[source]);
        }
        Ok(metrics)
    }

    /// Every family, by name.
    pub fn catalogue(&self) -> String {
        self.0.meter.catalogue()
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    /// Counts a file that was taken or held.
    pub(crate) fn took_file(&self, report: &FileReport) {
        let counts = report.counts;
        if report.taken {
            for (op, count) in
                [("create", counts.create), ("update", counts.update), ("delete", counts.delete)]
            {
                self.0.changes.with_label_values(&["file", op]).inc_by(count);
            }
        }
        self.0.parked.with_label_values(&["file"]).inc_by(counts.parked);
        self.settled_file(if report.taken { Fate::Taken } else { Fate::Held });
    }

    /// Counts a settled file.
    pub(crate) fn settled_file(&self, fate: Fate) {
        self.0.files.with_label_values(&[fate.folder()]).inc();
    }

    /// Counts the results of single changes.
    pub(crate) fn took_items(&self, results: &[ItemResult]) {
        let count = |is: fn(&ItemResult) -> bool| {
            u64::try_from(results.iter().filter(|result| is(result)).count()).unwrap_or(u64::MAX)
        };
        let taken = count(|result| matches!(result, ItemResult::Taken { .. }));
        self.0.changes.with_label_values(&["http", "change"]).inc_by(taken);
        let refused = count(|result| matches!(result, ItemResult::Refused { .. }));
        self.0.parked.with_label_values(&["http"]).inc_by(refused);
    }

    /// Counts a reopen.
    pub(crate) fn reopens(&self, why: &Reopened) {
        self.0.reopens.with_label_values(&[why.as_str()]).inc();
    }

    /// Counts what the sender has done since the last look.
    pub(crate) fn sent(&self, acknowledged: u64, failures: u64) {
        self.0.acknowledged.with_label_values::<&str>(&[]).inc_by(acknowledged);
        self.0.failures.with_label_values::<&str>(&[]).inc_by(failures);
    }

    /// Counts a local request and its duration.
    pub(crate) fn answered(&self, route: &str, status: u16, took: Duration) {
        self.0.requests.with_label_values(&[route, &status.to_string()]).inc();
        self.0.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Renders all series, with the gauges' present values.
    pub(crate) fn render(&self, look: &Look) -> String {
        self.0.vitals.refresh();
        let gauges = &self.0.gauges;
        let set = |family: &GaugeVec, value: f64| family.with_label_values::<&str>(&[]).set(value);
        set(&gauges.waiting, number(look.waiting));
        set(&gauges.bytes, number(look.bytes));
        set(&gauges.limit, number(look.limit));
        set(&gauges.stalled, look.stalled.as_secs_f64());
        set(&gauges.held, number(look.held));
        set(&gauges.partial, f64::from(u8::from(look.is_partial)));
        if let Some(at) = look.looked_at {
            set(&gauges.freshness, number(u64::try_from(at).unwrap_or_default()));
        }
        set(&gauges.connected, f64::from(u8::from(look.is_connected)));
        self.0.meter.render()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge has no other number")]
const fn number(count: u64) -> f64 {
    count as f64
}

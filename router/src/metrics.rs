//! What a router counts: call sites say what happened, this room says how it is counted.
//!
//! Owns every series of the router, except those that each process has. Labels are bounded: entities of control
//! (channels, agreements, participants) and words of our own; never a key, never a value.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::clock;
use platform::identity::Identity;
use platform::metrics::{Meter, MetricsError, Vitals};
use prometheus::core::{AtomicF64, GenericGauge};
use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec};
use reading::feed::Counts;
use schemas::agreement::Agreement;
use schemas::delivery::Reason;
use schemas::error_code::ErrorCode;
use schemas::ids::{AgreementNumber, ChannelName, Offset, Partition};
use schemas::per_partition::PerPartition;
use schemas::promise::Promise;
use schemas::time::Millis;

/// The labels of a channel.
const CHANNEL: &[&str] = &["channel"];
/// Why an event is parked.
pub(crate) const PARKED: [&str; 4] = ["undecodable", "unresolvable", "unprojectable", "unwritable"];
/// The labels of an agreement.
const AGREEMENT: &[&str] = &["agreement", "consumer", "channel"];

/// The router's series; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    meter: Meter,
    vitals: Vitals,
    http: HttpFamilies,
    channels: ChannelFamilies,
    agreements: AgreementFamilies,
    gauges: Gauges,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    next_stream: AtomicU64,
}

struct HttpFamilies {
    requests: IntCounterVec,
    seconds: HistogramVec,
    refusals: IntCounterVec,
    appends: HistogramVec,
    read_backs: HistogramVec,
    rests: HistogramVec,
    settled: HistogramVec,
}

struct ChannelFamilies {
    accepted: IntCounterVec,
    read: IntCounterVec,
    resyncs: IntCounterVec,
}

struct AgreementFamilies {
    deliveries: IntCounterVec,
    denied: IntCounterVec,
    trimmed: IntCounterVec,
    parked: IntCounterVec,
    bytes: IntCounterVec,
    ended: IntCounterVec,
    late_writes: IntCounterVec,
}

/// Gauges, most of them set on request.
pub(crate) struct Gauges {
    pub(crate) freshness: GaugeVec,
    pub(crate) newest: GaugeVec,
    pub(crate) fault: GaugeVec,
    declarations: GaugeVec,
    pub(crate) ends: GaugeVec,
    pub(crate) names: GaugeVec,
    pub(crate) state_lag: GaugeVec,
    pub(crate) overtaken: GaugeVec,
    pub(crate) active: GaugeVec,
    pub(crate) streams: GaugeVec,
    pub(crate) lag_records: GaugeVec,
    pub(crate) lag_seconds: GaugeVec,
    pub(crate) lease: GaugeVec,
    pub(crate) kafka_brokers: GaugeVec,
    pub(crate) kafka_queue: GaugeVec,
    pub(crate) kafka_rtt: GaugeVec,
    pub(crate) kafka_timeouts: GaugeVec,
}

impl HttpFamilies {
    #[rustfmt::skip]
    fn new(meter: &mut Meter) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: meter.counter("dit_router_http_requests_total", "Requests answered, by route, method and status.", &["route", "method", "status"])?,
            seconds: meter.seconds("dit_router_http_request_duration_seconds", "From a request's head to its answer's head, by route; a stream's body is not in it.", &["route"])?,
            refusals: meter.counter("dit_router_refusals_total", "Requests refused, by error code.", &["code"])?,
            appends: meter.seconds("dit_router_append_duration_seconds", "From an append to the log's acknowledgement.", &[])?,
            read_backs: meter.seconds("dit_router_read_back_duration_seconds", "From the log's acknowledgement to the router's own reader having passed it.", &[])?,
            rests: meter.seconds("dit_router_bulk_rest_duration_seconds", "How long a batch of a channel in bulk rested, because single changes of other channels were late.", &[])?,
            settled: meter.seconds("dit_router_settle_duration_seconds", "From an operator's change of an agreement to its acknowledgement: no router works against it any more.", &[])?,
        })
    }
}

impl ChannelFamilies {
    fn new(meter: &mut Meter) -> Result<Self, MetricsError> {
        Ok(Self {
            accepted: meter.counter(
                "dit_router_events_accepted_total",
                "Events of batches that this router appended for a provider, repeats included.",
                CHANNEL,
            )?,
            read: meter.counter(
                "dit_router_records_read_total",
                "Records that this router's reader passed, by what they meant: skipped, parked; for change, the changes in them.",
                &["channel", "meaning"],
            )?,
            resyncs: meter.counter(
                "dit_router_resyncs_ordered_total",
                "Times an event's before image was not the state's, so that every replica begins again.",
                CHANNEL,
            )?,
        })
    }
}

impl AgreementFamilies {
    fn new(meter: &mut Meter) -> Result<Self, MetricsError> {
        Ok(Self {
            deliveries: meter.counter(
                "dit_router_deliveries_total",
                "Events permitted to a consumer, by reason: change, enter, leave, state.",
                &["agreement", "consumer", "channel", "reason"],
            )?,
            denied: meter.counter(
                "dit_router_events_denied_total",
                "Events that the agreement's rows exclude, before and after.",
                AGREEMENT,
            )?,
            trimmed: meter.counter(
                "dit_router_events_trimmed_total",
                "Permitted events of a schema with fields that the agreement does not name.",
                AGREEMENT,
            )?,
            parked: meter.counter(
                "dit_router_events_parked_total",
                "Events that could not be judged and went to nobody, by reason.",
                &["agreement", "consumer", "channel", "reason"],
            )?,
            bytes: meter.counter(
                "dit_router_handed_over_bytes_total",
                "Bytes of deliveries handed to a consumer's connection.",
                AGREEMENT,
            )?,
            ended: meter.counter(
                "dit_router_streams_ended_total",
                "Streams that ended, by reason.",
                &["reason"],
            )?,
            late_writes: meter.counter(
                "dit_router_late_writes_total",
                "Frames handed over without a lease under an agreement that had ended; stays 0.",
                &[],
            )?,
        })
    }
}

impl Gauges {
    #[rustfmt::skip]
    fn new(meter: &mut Meter) -> Result<Self, MetricsError> {
        let source = &["channel", "provider"];
        let client = &["client"];
        Ok(Self {
            freshness: meter.gauge("dit_router_source_freshness_timestamp_seconds", "Time up to which the provider has checked its source; the oldest of the partitions counts.", source)?,
            newest: meter.gauge("dit_router_channel_newest_timestamp_seconds", "When the log took the newest record of the channel that was read.", CHANNEL)?,
            fault: meter.gauge("dit_router_channel_fault", "1 while a partition of the channel cannot be read.", CHANNEL)?,
            declarations: meter.gauge("dit_router_declarations", "Declarations that need a person, as found at the start: skipped (wrong), drifted (in the network, but not declared in the folder).", &["what"])?,
            state_lag: meter.gauge("dit_router_state_lag_records", "Records of the log that the channel's state does not include, as far as this router knows; the least of all routers is right.", CHANNEL)?,
            overtaken: meter.gauge("dit_router_state_overtaken", "1 while the state lacks events that the log has lost; its provider's agent must reopen.", CHANNEL)?,
            active: meter.gauge("dit_router_agreement_active", "1 while the agreement is in force.", AGREEMENT)?,
            ends: meter.gauge("dit_router_agreement_end_timestamp_seconds", "When the agreement ends; only for active agreements that have an end.", AGREEMENT)?,
            names: meter.gauge("dit_router_participant_info", "1 for each participant, with its name.", &["participant", "name"])?,
            streams: meter.gauge("dit_router_streams_open", "Streams of the agreement at this router.", AGREEMENT)?,
            lag_records: meter.gauge("dit_router_stream_lag_records", "Records between the agreement's best stream and the log's end, whoever they are for.", AGREEMENT)?,
            lag_seconds: meter.gauge("dit_router_stream_lag_seconds", "Time since the agreement's best stream stood at the end, or the age of the newest record that it has passed since; 0 while none waits.", AGREEMENT)?,
            lease: meter.gauge("dit_router_lease_held", "1 while this router may hand over data.", &[])?,
            kafka_brokers: meter.gauge("dit_router_kafka_brokers_up", "Brokers that the client is connected to.", client)?,
            kafka_queue: meter.gauge("dit_router_kafka_queue_messages", "Messages that wait in the client.", client)?,
            kafka_rtt: meter.gauge("dit_router_kafka_round_trip_seconds", "The 99th percentile of the slowest broker's round trips.", client)?,
            kafka_timeouts: meter.gauge("dit_router_kafka_request_timeouts", "Requests that timed out since the client began.", client)?,
        })
    }
}

impl Metrics {
    pub fn new(identity: &Identity, disks: Vec<std::path::PathBuf>) -> Result<Self, MetricsError> {
        let mut meter = Meter::new()?;
        Ok(Self(Arc::new(Families {
            vitals: Vitals::new(&mut meter, identity, disks)?,
            http: HttpFamilies::new(&mut meter)?,
            channels: ChannelFamilies::new(&mut meter)?,
            agreements: AgreementFamilies::new(&mut meter)?,
            gauges: Gauges::new(&mut meter)?,
            meter,
            streams: Mutex::default(),
            next_stream: AtomicU64::new(0),
        })))
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.0.gauges
    }

    pub(crate) fn render(&self) -> String {
        self.0.meter.render()
    }

    /// Every family, by name.
    pub fn catalogue(&self) -> String {
        self.0.meter.catalogue()
    }

    /// Counts of declarations that need a person.
    pub(crate) fn declared(&self, skipped: usize, drifted: usize) {
        for (what, count) in [("skipped", skipped), ("drifted", drifted)] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.0.gauges.declarations.with_label_values(&[what]).set(f64::from(count));
        }
    }

    /// A request was answered.
    pub(crate) fn answered(
        &self,
        route: &str,
        method: &str,
        status: u16,
        code: Option<ErrorCode>,
        took: Duration,
    ) {
        let http = &self.0.http;
        http.requests.with_label_values(&[route, method, &status.to_string()]).inc();
        http.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
        if let Some(code) = code {
            http.refusals.with_label_values(&[code.as_str()]).inc();
        }
    }

    /// The log acknowledged a provider's events, or an opening.
    pub(crate) fn appended(&self, channel: &ChannelName, events: u64, took: Duration) {
        self.0.channels.accepted.with_label_values(&[channel.as_str()]).inc_by(events);
        self.0.http.appends.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// The router's own reader has passed an append.
    pub(crate) fn read_back(&self, took: Duration) {
        self.0.http.read_backs.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// A batch of a channel in bulk rests.
    pub(crate) fn rested(&self, rest: Duration) {
        self.0.http.rests.with_label_values::<&str>(&[]).observe(rest.as_secs_f64());
    }

    /// No router works against an agreement's former status any more.
    pub(crate) fn settled(&self, took: Duration) {
        self.0.http.settled.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// What a channel's reader counts.
    pub fn reader(&self, channel: &ChannelName) -> ReaderMeter {
        let families = &self.0.channels;
        let read = |meaning: &str| families.read.with_label_values(&[channel.as_str(), meaning]);
        ReaderMeter {
            changes: read("change"),
            skipped: read("skipped"),
            parked: read("parked"),
            resyncs: families.resyncs.with_label_values(&[channel.as_str()]),
            metrics: self.clone(),
        }
    }

    /// What a stream counts, while it is open.
    pub(crate) fn stream(&self, agreement: &Agreement) -> StreamMeter {
        let families = &self.0.agreements;
        let labels = labels(agreement);
        let by = |word: &'static str| {
            let [number, consumer, channel] = &labels;
            families.deliveries.with_label_values(&[
                number.as_str(),
                consumer.as_str(),
                channel.as_str(),
                word,
            ])
        };
        // Each series begins at 0: monitoring misses the first step of a counter that begins at 1.
        for reason in PARKED {
            let [number, consumer, channel] = &labels;
            let labels = [number.as_str(), consumer.as_str(), channel.as_str(), reason];
            families.parked.with_label_values(&labels);
        }
        let id = self.0.next_stream.fetch_add(1, Ordering::Relaxed);
        let number = agreement.number.clone();
        let passed = Mutex::default();
        let stream = Arc::new(Stream { number, begun_at: clock::now(), passed });
        self.streams().insert(id, Arc::clone(&stream));
        StreamMeter {
            delivered: [by("change"), by("enter"), by("leave"), by("state")],
            denied: families.denied.with_label_values(&labels),
            trimmed: families.trimmed.with_label_values(&labels),
            bytes: families.bytes.with_label_values(&labels),
            labels,
            stream,
            id,
            metrics: self.clone(),
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open streams, by agreement.
    pub(crate) fn open_streams(&self) -> HashMap<AgreementNumber, Vec<Arc<Stream>>> {
        let mut open: HashMap<_, Vec<_>> = HashMap::new();
        for stream in self.streams().values() {
            open.entry(stream.number.clone()).or_default().push(Arc::clone(stream));
        }
        open
    }

    /// A promise was found broken.
    pub(crate) fn break_promise(&self, promise: Promise) {
        self.0.vitals.break_promise(promise);
    }
}

pub(crate) fn labels(agreement: &Agreement) -> [String; 3] {
    [agreement.number.to_string(), agreement.consumer.to_string(), agreement.channel.to_string()]
}

/// A gauge's child by an agreement.
pub(crate) fn of(family: &GaugeVec, labels: &[String; 3]) -> GenericGauge<AtomicF64> {
    family.with_label_values(labels)
}

/// What the readers of one channel count.
#[derive(Clone)]
pub struct ReaderMeter {
    changes: IntCounter,
    skipped: IntCounter,
    parked: IntCounter,
    resyncs: IntCounter,
    metrics: Metrics,
}

impl ReaderMeter {
    /// A stretch of the log was read.
    pub(crate) fn read(&self, counts: Counts) {
        self.changes.inc_by(counts.changes);
        self.parked.inc_by(counts.parked);
        self.skipped.inc_by(counts.skipped);
    }

    /// An event's before image was not the state's.
    pub(crate) fn differs(&self) {
        self.resyncs.inc();
        self.metrics.break_promise(Promise::ReplicaEquation);
    }
}

/// The progress of an open stream.
pub(crate) struct Stream {
    number: AgreementNumber,
    pub(crate) begun_at: Millis,
    passed: Mutex<PerPartition<Passed>>,
}

/// How far a stream is in a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Passed {
    pub(crate) to: Offset,
    /// When the log took the newest record that was passed, or a later time when the stream was at the end.
    pub(crate) at: Option<Millis>,
}

impl Stream {
    /// How far it is in each partition; none while a snapshot is under way.
    pub(crate) fn passed(&self) -> PerPartition<Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What one stream counts; it is open until this is dropped.
pub struct StreamMeter {
    delivered: [IntCounter; 4],
    denied: IntCounter,
    trimmed: IntCounter,
    bytes: IntCounter,
    labels: [String; 3],
    stream: Arc<Stream>,
    id: u64,
    metrics: Metrics,
}

impl StreamMeter {
    /// An event was permitted; `trimmed` where its schema has fields that the agreement does not name.
    pub(crate) fn delivered(&self, reason: Reason, trimmed: bool) {
        let [change, enter, leave, state] = &self.delivered;
        match reason {
            Reason::Change => change.inc(),
            Reason::Enter => enter.inc(),
            Reason::Leave => leave.inc(),
            Reason::State => state.inc(),
        }
        if trimmed {
            self.trimmed.inc();
        }
    }

    /// Events that give the consumer nothing.
    pub(crate) fn denied(&self, events: u64) {
        self.denied.inc_by(events);
    }

    /// An event could not be judged.
    pub(crate) fn parked(&self, reason: &str) {
        let [number, consumer, channel] = &self.labels;
        let labels = [number.as_str(), consumer.as_str(), channel.as_str(), reason];
        self.metrics.0.agreements.parked.with_label_values(&labels).inc();
    }

    /// The stream follows the log from here.
    pub(crate) fn begun(&self, passed: PerPartition<Passed>) {
        *self.stream.passed.lock().unwrap_or_else(PoisonError::into_inner) = passed;
    }

    /// The stream has passed a position.
    pub(crate) fn passed(&self, partition: Partition, passed: Passed) {
        let mut known = self.stream.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(partition) {
            *known = passed;
        }
    }

    /// The stream has ended.
    pub(crate) fn ended(&self, reason: &str) {
        self.metrics.0.agreements.ended.with_label_values(&[reason]).inc();
    }

    /// What its connection counts.
    pub(crate) fn connection(&self) -> ConnectionMeter {
        ConnectionMeter { bytes: self.bytes.clone(), metrics: self.metrics.clone() }
    }
}

impl Drop for StreamMeter {
    fn drop(&mut self) {
        self.metrics.streams().remove(&self.id);
    }
}

/// What a stream's connection counts.
pub struct ConnectionMeter {
    bytes: IntCounter,
    metrics: Metrics,
}

impl ConnectionMeter {
    /// A frame was handed over.
    pub(crate) fn handed_over(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A frame went out without a lease, under an agreement that had ended.
    pub(crate) fn late_write(&self) {
        self.metrics.0.agreements.late_writes.with_label_values::<&str>(&[]).inc();
        self.metrics.break_promise(Promise::Revocation);
    }
}

#[cfg(test)]
impl Metrics {
    /// Frames that were handed over too late.
    pub(crate) fn late_writes(&self) -> u64 {
        self.0.agreements.late_writes.with_label_values::<&str>(&[]).get()
    }
}

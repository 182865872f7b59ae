//! Metrics: families of series that are named once, with help and labels, and rendered for Prometheus.
//!
//! Owns the meter and the vitals of every process: its version, its certificate, its disks, the promises. A service's
//! other metrics are in its own `metrics.rs`.

use std::path::{Path, PathBuf};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use schemas::promise::Promise;

use crate::identity::Identity;
use crate::observe::Check;

/// Buckets from a millisecond, the time of a fast answer, to the half minute after which a request is given up.
pub const SECONDS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// A family of series that cannot be made: its name exists already, or Prometheus does not allow it.
#[derive(Debug, thiserror::Error)]
#[error("a metric cannot be made: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Makes families and renders them.
#[derive(Debug)]
pub struct Meter {
    registry: Registry,
    catalogue: Vec<String>,
}

impl Meter {
    /// A meter that already has the operating system's metrics of the process.
    pub fn new() -> Result<Self, MetricsError> {
        let mut meter = Self { registry: Registry::new(), catalogue: Vec::new() };
        meter.register("process", ProcessCollector::for_self())?;
        Ok(meter)
    }

    /// A counter by labels; its name ends in `_total`.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.register("counter", family.clone())?;
        Ok(family)
    }

    /// A gauge by labels; its name ends in its base unit.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        self.register("gauge", family.clone())?;
        Ok(family)
    }

    /// A histogram of seconds by labels.
    pub fn seconds(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, MetricsError> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let family = HistogramVec::new(options, labels)?;
        self.register("histogram", family.clone())?;
        Ok(family)
    }

    fn register(&mut self, kind: &str, family: impl Collector + 'static) -> Result<(), MetricsError> {
        for desc in family.desc() {
            let labels = desc.variable_labels.join(", ");
            self.catalogue.push(format!("{} {kind} {{{labels}}} {}", desc.fq_name, desc.help));
        }
        Ok(self.registry.register(Box::new(family))?)
    }

    /// Every family in a line: its name, kind, labels and help. Golden in each service.
    pub fn catalogue(&self) -> String {
        let mut lines = self.catalogue.clone();
        lines.sort();
        lines.join("\n") + "\n"
    }

    /// All series in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be rendered");
        }
        text
    }
}

/// The metrics that every process reports about itself.
#[derive(Debug)]
pub struct Vitals {
    certificate: GaugeVec,
    free: GaugeVec,
    size: GaugeVec,
    broken: IntCounterVec,
    until: Option<i64>,
    disks: Vec<PathBuf>,
}

impl Vitals {
    /// The vitals of a process with this identity and these folders.
    pub fn new(meter: &mut Meter, identity: &Identity, disks: Vec<PathBuf>) -> Result<Self, MetricsError> {
        let build = meter.gauge("dit_build_info", "Always 1; the version that runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let broken = meter.counter(
            "dit_promises_broken_total",
            "Breaches of a promise that this process has noticed; stays 0.",
            &["promise"],
        )?;
        for promise in Promise::ALL {
            broken.with_label_values(&[promise.as_str()]);
        }
        Ok(Self {
            certificate: meter.gauge(
                "dit_certificate_expiry_timestamp_seconds",
                "Until when this process's own certificate is good.",
                &[],
            )?,
            free: meter.gauge(
                "dit_disk_free_bytes",
                "Bytes that this process may still write there.",
                &["path"],
            )?,
            size: meter.gauge("dit_disk_size_bytes", "Bytes of the file system there.", &["path"])?,
            broken,
            until: identity.good_until(),
            disks,
        })
    }

    /// Counts a breach of a promise.
    pub fn break_promise(&self, promise: Promise) {
        self.broken.with_label_values(&[promise.as_str()]).inc();
    }

    /// Promises with a breach since the process began.
    fn broken(&self) -> Vec<Promise> {
        let is_broken = |promise: &Promise| self.broken.with_label_values(&[promise.as_str()]).get() > 0;
        Promise::ALL.into_iter().filter(is_broken).collect()
    }

    /// Updates the gauges of certificate and disks.
    pub fn refresh(&self) {
        if let Some(until) = self.until {
            self.certificate.with_label_values::<&str>(&[]).set(seconds(until));
        }
        for path in &self.disks {
            let label = [path.display().to_string()];
            if let Some((free, size)) = disk(path) {
                self.free.with_label_values(&label).set(bytes(free));
                self.size.with_label_values(&label).set(bytes(size));
            }
        }
    }

    /// Checks what every process needs: a valid certificate, disks with room, promises that are kept.
    pub fn checks(&self) -> Vec<Check> {
        let now = crate::clock::now().get() / 1_000;
        let is_over = self.until.is_some_and(|until| until < now);
        let certificate = is_over.then(|| "our certificate has run out; have a new one issued".to_owned());
        let broken: Vec<_> = self.broken().into_iter().map(Promise::as_str).collect();
        let promises = (!broken.is_empty()).then(|| {
            format!("a promise was broken: {}; see DitPromiseBroken in docs/runbook.md", broken.join(", "))
        });
        vec![
            Check::new("certificate", certificate),
            Check::new("disk", self.full_disk()),
            Check::new("promises", promises),
        ]
    }

    /// The first disk with too little room, in words.
    fn full_disk(&self) -> Option<String> {
        self.disks.iter().find_map(|path| {
            let (free, _) = disk(path)?;
            (free < DISK_RESERVE)
                .then(|| format!("{}: {free} bytes are free, {DISK_RESERVE} are needed", path.display()))
        })
    }
}

/// Below this a process is not ready: a segment may not fit any more.
const DISK_RESERVE: u64 = 64 * 1024 * 1024;

/// Bytes that are free for us, and all bytes.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

#[allow(clippy::cast_precision_loss, reason = "a gauge has no other number")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "a gauge has no other number")]
const fn seconds(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_named_once_and_rendered_with_its_help() {
        let mut meter = Meter::new().unwrap();
        let counter = meter.counter("dit_test_total", "A test.", &["way"]).unwrap();
        counter.with_label_values(&["in"]).inc();
        assert!(meter.counter("dit_test_total", "Another.", &[]).is_err());
        assert!(meter.gauge("dit-test", "No name of Prometheus.", &[]).is_err());
        let text = meter.render();
        assert!(text.contains("# HELP dit_test_total A test.\n"), "{text}");
        assert!(text.contains("dit_test_total{way=\"in\"} 1\n"), "{text}");
        assert!(meter.catalogue().contains("dit_test_total counter {way} A test.\n"));
    }
}

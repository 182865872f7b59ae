//! The measurements: the JSON that a run writes.
//!
//! Owns its form, and the figures that follow from others. Each figure of speed has a counterpart from the same round;
//! ratios are medians over the rounds.

use serde::{Deserialize, Serialize};

use crate::process::Taken;
use crate::scenario::Scenario;
use crate::waits::Wait;

/// A run of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    /// When it began, as a time stamp of UTC.
    pub(crate) begun_at: String,
    pub(crate) cores: usize,
    /// What ours is compared with, in words.
    pub(crate) against: String,
    /// In order.
    pub(crate) rounds: Vec<Round>,
    pub(crate) summary: Summary,
    /// Where the time of traced events went; none where nothing was traced.
    #[serde(default)]
    pub(crate) waits: Vec<Wait>,
}

/// Both sides, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// What ours is compared with.
    pub(crate) other: Measured,
    pub(crate) ours: Measured,
}

/// One measurement. Every event has arrived.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Events that arrived, at whoever they are for.
    pub(crate) events: u64,
    /// From the first intended sending to the last event applied.
    pub(crate) seconds: f64,
    /// Bytes of keys and values, as they were applied.
    pub(crate) bytes: u64,
    /// From intended sending to applied: quantile and microseconds; empty where all were due at once.
    pub(crate) latencies: Vec<(f64, u64)>,
    pub(crate) processes: Vec<Process>,
    /// How long the disturbance took, in seconds; none where nothing was disturbed.
    #[serde(default)]
    pub(crate) disturbed: Option<f64>,
    /// Seconds since the beginning, and events applied by then.
    pub(crate) course: Vec<(f64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    /// What it took during the measurement (CPU), and at most since its start (memory).
    #[serde(flatten)]
    pub(crate) taken: Taken,
}

/// Medians over the rounds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) ours_per_second: f64,
    pub(crate) other_per_second: f64,
    /// Ours ÷ other, of each round.
    pub(crate) rate_ratio: f64,
    /// CPU seconds of all processes but the broker, ours ÷ other.
    pub(crate) cpu_ratio: f64,
    /// CPU seconds of the broker, ours ÷ other; none where it is not ours to watch.
    pub(crate) broker_cpu_ratio: Option<f64>,
    /// Microseconds that ours adds at the median; none where all were due at once.
    pub(crate) added_p50_micros: Option<f64>,
    /// Microseconds that ours adds at the 99th percentile.
    pub(crate) added_p99_micros: Option<f64>,
    /// The 99th percentile, ours ÷ other.
    pub(crate) p99_ratio: Option<f64>,
    /// Seconds that a disturbance took; none where nothing was disturbed.
    #[serde(default)]
    pub(crate) disturbed_seconds: Option<f64>,
    /// Bytes that the router holds more at most; none where the other has no router.
    pub(crate) added_router_bytes: Option<f64>,
}

/// The broker's name among processes.
pub(crate) const BROKER: &str = "Kafka";
/// The name of the server that is the broker on NATS.
pub(crate) const NATS: &str = "NATS server";
/// The router's name among processes.
pub(crate) const ROUTER: &str = "router";

/// Whether a process is the broker of a measurement.
fn is_broker(process: &Process) -> bool {
    [BROKER, NATS].contains(&process.name.as_str())
}

impl Measured {
    #[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.events as f64 / self.seconds } else { 0.0 }
    }

    /// CPU seconds of all processes but the broker.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ours = self.processes.iter().filter(|process| !is_broker(process));
        ours.map(|process| process.taken.cpu_seconds).sum()
    }

    fn broker_cpu_seconds(&self) -> Option<f64> {
        let broker = self.processes.iter().find(|process| is_broker(process));
        broker.map(|process| process.taken.cpu_seconds)
    }

    #[allow(clippy::cast_precision_loss, reason = "bytes of a process are far below 2^52")]
    fn router_bytes(&self) -> Option<f64> {
        let router = self.processes.iter().find(|process| process.name == ROUTER);
        router.map(|process| process.taken.max_rss_bytes as f64)
    }

    /// The latency at a quantile.
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
    pub(crate) fn latency(&self, quantile: f64) -> Option<f64> {
        let found = self.latencies.iter().find(|(at, _)| (at - quantile).abs() < 1e-9);
        found.map(|(_, micros)| *micros as f64)
    }
}

/// The use since `before`: CPU by difference, memory as it is.
pub(crate) fn since(before: &[Process], mut now: Vec<Process>) -> Vec<Process> {
    for (process, before) in now.iter_mut().zip(before) {
        process.taken.cpu_seconds -= before.taken.cpu_seconds;
    }
    now
}

pub(crate) fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let low = all.len().checked_sub(1)? / 2;
    let high = all.len() / 2;
    Some(f64::midpoint(*all.get(low)?, *all.get(high)?))
}

fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

/// The figures of one round, ours against the other side.
impl Round {
    pub(crate) fn rate_ratio(&self) -> Option<f64> {
        ratio(self.ours.per_second(), self.other.per_second())
    }

    pub(crate) fn cpu_ratio(&self) -> Option<f64> {
        ratio(self.ours.cpu_seconds(), self.other.cpu_seconds())
    }

    pub(crate) fn broker_cpu_ratio(&self) -> Option<f64> {
        ratio(self.ours.broker_cpu_seconds()?, self.other.broker_cpu_seconds()?)
    }

    /// Microseconds that ours adds at a quantile.
    pub(crate) fn added_micros(&self, quantile: f64) -> Option<f64> {
        Some(self.ours.latency(quantile)? - self.other.latency(quantile)?)
    }

    fn p99_ratio(&self) -> Option<f64> {
        ratio(self.ours.latency(0.99)?, self.other.latency(0.99)?)
    }

    fn added_router_bytes(&self) -> Option<f64> {
        Some(self.ours.router_bytes()? - self.other.router_bytes()?)
    }
}

impl Summary {
    pub(crate) fn of(rounds: &[Round]) -> Self {
        let over = |each: &dyn Fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(each).collect());
        Self {
            ours_per_second: over(&|round| Some(round.ours.per_second())).unwrap_or_default(),
            other_per_second: over(&|round| Some(round.other.per_second())).unwrap_or_default(),
            rate_ratio: over(&Round::rate_ratio).unwrap_or_default(),
            cpu_ratio: over(&Round::cpu_ratio).unwrap_or_default(),
            broker_cpu_ratio: over(&Round::broker_cpu_ratio),
            added_p50_micros: over(&|round| round.added_micros(0.5)),
            added_p99_micros: over(&|round| round.added_micros(0.99)),
            p99_ratio: over(&Round::p99_ratio),
            disturbed_seconds: over(&|round| round.ours.disturbed),
            added_router_bytes: over(&Round::added_router_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: f64, cpu: f64, p50: u64) -> Measured {
        let taken = Taken { cpu_seconds: cpu, max_rss_bytes: 1 };
        let process = |name: &str| Process { name: name.to_owned(), taken };
        Measured {
            events: 100,
            seconds,
            latencies: vec![(0.5, p50), (0.99, p50 * 2)],
            processes: vec![process("router"), process(BROKER)],
            ..Measured::default()
        }
    }

    #[test]
    fn ratios_are_medians_over_the_rounds_and_the_broker_is_told_apart() {
        let round = |ours: f64| Round { other: measured(1.0, 2.0, 100), ours: measured(ours, 6.0, 150) };
        let summary = Summary::of(&[round(2.0), round(10.0), round(4.0)]);
        assert_eq!((summary.other_per_second, summary.ours_per_second), (100.0, 25.0));
        assert_eq!((summary.rate_ratio, summary.cpu_ratio), (0.25, 3.0));
        assert_eq!(summary.broker_cpu_ratio, Some(3.0));
        assert_eq!((summary.added_p50_micros, summary.added_p99_micros), (Some(50.0), Some(100.0)));
        assert_eq!(Summary::of(&[round(2.0), round(4.0)]).rate_ratio, 0.375);
    }
}

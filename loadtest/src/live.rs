//! The progress of a running part: one JSON object a line on standard output.
//!
//! Owns the line's form and the latencies' histogram. The last line is the part's result.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::rows::now_micros;

/// How often a part reports its progress.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Latencies are kept to three digits, from a microsecond to an hour.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// The points of a latency curve.
const QUANTILES: [f64; 12] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// The progress of a part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Whether it can take load.
    pub(crate) ready: bool,
    pub(crate) events: u64,
    /// Bytes of keys and values of those, as they came.
    pub(crate) bytes: u64,
    /// When the last event was counted, in microseconds since 1970.
    pub(crate) last_at: i64,
    /// Streams that are open.
    pub(crate) streaming: u32,
    /// From intended sending to applied: quantile and microseconds; empty where no event has a time.
    pub(crate) latencies: Vec<(f64, u64)>,
}

struct Counts {
    line: Line,
    latencies: Histogram<u64>,
}

/// The counts of a part; clones share them.
#[derive(Clone)]
pub(crate) struct Counter(Arc<Mutex<Counts>>);

impl Counter {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let latencies = Histogram::new_with_bounds(1, LONGEST_MICROS, 3)?;
        Ok(Self(Arc::new(Mutex::new(Counts { line: Line::default(), latencies }))))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports that the part can take load.
    pub(crate) fn ready(&self) {
        self.with(|counts| counts.line.ready = true);
    }

    /// Counts a stream that was opened, or has ended.
    pub(crate) fn stream(&self, is_open: bool) {
        self.with(|Counts { line, .. }| {
            line.streaming = if is_open { line.streaming + 1 } else { line.streaming.saturating_sub(1) };
        });
    }

    /// Counts events that were applied now; `sent_at` is when each was due to be sent, 0 where that is not known.
    pub(crate) fn applied(&self, events: impl IntoIterator<Item = (i64, usize)>) {
        let now = now_micros();
        self.with(|counts| {
            for (sent_at, bytes) in events {
                counts.line.events += 1;
                counts.line.bytes += u64::try_from(bytes).unwrap_or_default();
                counts.line.last_at = now;
                if sent_at > 0 {
                    counts
                        .latencies
                        .saturating_record(u64::try_from(now - sent_at).unwrap_or_default().max(1));
                }
            }
        });
    }

    fn line(&self) -> Line {
        self.with(|counts| {
            let mut line = counts.line.clone();
            if !counts.latencies.is_empty() {
                let at = |quantile| (quantile, counts.latencies.value_at_quantile(quantile));
                line.latencies = QUANTILES.map(at).to_vec();
            }
            line
        })
    }

    /// Prints the progress until `done`, and once more at the end.
    pub(crate) async fn tell_until(&self, done: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut done = std::pin::pin!(done);
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            let is_done = tokio::select! {
                () = &mut done => true,
                _ = tick.tick() => false,
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(&self.line())?)?;
            out.flush()?;
            if is_done {
                return Ok(());
            }
        }
    }
}

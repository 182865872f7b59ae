//! What a measurement reads: the events that arrive, and the resources that the processes take.
//!
//! Owns the broker of a run, and the end of a measurement: every event has arrived, and none twice.

use std::time::Duration;

use anyhow::ensure;
use indicatif::ProgressBar;
use parts::kafka::Kafka;

use crate::outcome::{BROKER, Measured, Process};
use crate::process::{Part, Taken, taken};
use crate::scenario::Scenario;

/// The broker of a run.
pub(crate) struct Broker {
    pub(crate) addresses: String,
    /// Started for the run.
    pub(crate) own: Option<Kafka>,
}

impl Broker {
    pub(crate) fn taken(&self) -> Option<Taken> {
        let pids = self.own.as_ref()?.pids();
        let each = pids.into_iter().map(taken);
        Some(each.fold(Taken::default(), |sum, one| Taken {
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            max_rss_bytes: sum.max_rss_bytes + one.max_rss_bytes,
        }))
    }
}

/// Waits until all events were applied; the measurement, without the processes.
pub(crate) async fn measured(
    counting: &mut Part,
    scenario: &Scenario,
    begun: i64,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let events = scenario.events();
    let seconds =
        |at: i64| Duration::from_micros(u64::try_from(at - begun).unwrap_or_default()).as_secs_f64();
    let mut course = vec![(0.0, 0)];
    let mut seen = 0;
    let last = loop {
        let line = counting.until("all events had arrived", |line| line.events > seen).await?;
        seen = line.events;
        bar.set_position(seen);
        course.push((seconds(line.last_at), seen));
        if seen >= events {
            break line;
        }
    };
    bar.finish_and_clear();
    ensure!(last.events == events, "{} events arrived of {events}: some came twice", last.events);
    let bytes = last.bytes;
    let latencies = last.latencies;
    let seconds = seconds(last.last_at);
    Ok(Measured { events, seconds, bytes, latencies, course, ..Measured::default() })
}

pub(crate) fn all_taken(parts: &[(&'static str, &Part)], broker: &Broker) -> Vec<Process> {
    let named = |(name, taken): (&str, Taken)| Process { name: name.to_owned(), taken };
    let parts = parts.iter().map(|(name, part)| (*name, part.taken()));
    parts.chain(broker.taken().map(|taken| (BROKER, taken))).map(named).collect()
}

//! Logs: one line for each event to standard error, as JSON if requested; and the export of traces.
//!
//! Owns the subscriber's set-up. Keys and values of events are never logged anywhere.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::shown::{Lines, LogLine};
use crate::traces::{self, Exporting, TraceError};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Held as long as the process logs; drop sends the last spans out.
#[derive(Debug)]
#[must_use = "spans go out as long as it is held"]
pub struct Telemetry {
    _exporting: Option<Exporting>,
}

/// Begins logging, and traces where the environment asks for them; `filter` as in `RUST_LOG`, which overrides it.
/// A second call changes nothing. `service` names the process in traces.
pub fn init(service: &'static str, format: Format, filter: &str) -> Result<Telemetry, TraceError> {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    // A line about a traced event carries the trace's id, however little is logged.
    if let Ok(directive) = format!("{}=info", traces::TARGET).parse() {
        filter = filter.add_directive(directive);
    }
    // A file of lines has no use for colours.
    let is_terminal = std::io::stderr().is_terminal();
    let shown = match format {
        Format::Text if is_terminal => Lines::Coloured,
        Format::Text => Lines::Plain,
        Format::Json => Lines::Json,
    };
    let lines = fmt::layer().with_writer(move || LogLine(shown)).with_ansi(is_terminal);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => lines.with_target(false).boxed(),
        Format::Json => lines.json().with_span_list(false).boxed(),
    };
    let (exporting, tracer) = Exporting::begin(service)?.unzip();
    let is_exporting = exporting.is_some();
    let spans = tracer.map(|tracer| {
        let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false);
        spans.with_threads(false).with_tracked_inactivity(false).with_target(false)
    });
    // One filter for all: filters of single layers lose a span if code only asks "is this enabled?" before it, as
    // rdkafka does when it makes a client.
    match tracing_subscriber::registry().with(filter).with(lines).with(spans).try_init() {
        Ok(()) if is_exporting => Exporting::switch_on(),
        Ok(()) => {}
        Err(_) => tracing::debug!("logging had already begun"),
    }
    Ok(Telemetry { _exporting: exporting })
}

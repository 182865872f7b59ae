//! The path of one event as spans: source, outbox, ingest, log, delivery, sink.
//!
//! Owns the spans' names and attributes, after OpenTelemetry's messaging conventions (semantic conventions 1.42.0), and
//! their export by OTLP, which the standard environment variables switch on. A span must never hold a key or a value.
//! An event that was not sampled at its source costs nothing later.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use schemas::ids::Partition;
use schemas::trace::TraceContext;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span here: no log filter may cut an event's path.
pub(crate) const TARGET: &str = "dit::trace";
/// The schema of the conventions that names and attributes follow.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.42.0";
/// How long the end of a process waits for the last spans to go out.
const LAST_EXPORT: Duration = Duration::from_secs(5);

/// Whether this process makes traces; set once, at its start.
static IS_ON: OnceLock<()> = OnceLock::new();

/// Why traces cannot be made as the environment asks for.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A protocol that is not built in.
    #[error(
        "{variable}={value}: traces go by http/protobuf only; leave it out, and give the collector's HTTP port"
    )]
    Protocol { variable: &'static str, value: String },
    /// An exporter that is not built in.
    #[error("OTEL_TRACES_EXPORTER={0}: it may be \"otlp\" or \"none\"")]
    Exporter(String),
    /// Another error of the exporter.
    #[error("the OTLP exporter cannot be made of the OTEL_EXPORTER_OTLP_… variables: {0}")]
    Options(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Whether the standard environment variables request traces.
fn is_asked_for(variable: impl Fn(&str) -> Option<String>) -> Result<bool, TraceError> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let is_asked_for = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => return Err(TraceError::Exporter(other.to_owned())),
        None => ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
            .iter()
            .any(|name| variable(name).is_some()),
    };
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        let other = variable(name).filter(|value| is_asked_for && value != "http/protobuf");
        if let Some(value) = other {
            return Err(TraceError::Protocol { variable: name, value });
        }
    }
    Ok(is_asked_for)
}

fn of_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Sends spans out; drop sends the last ones.
#[derive(Debug)]
pub struct Exporting(SdkTracerProvider);

impl Exporting {
    /// Begins if the environment requests it. `service` is the default for the environment's service name.
    pub(crate) fn begin(service: &'static str) -> Result<Option<(Self, SdkTracer)>, TraceError> {
        if !is_asked_for(of_environment)? {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().build()?;
        let is_named = of_environment("OTEL_SERVICE_NAME").is_some()
            || of_environment("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
        let resource = Resource::builder();
        let resource = if is_named { resource } else { resource.with_service_name(service) };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let scope = InstrumentationScope::builder("dit")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(CONVENTIONS)
            .build();
        let tracer = provider.tracer_with_scope(scope);
        Ok(Some((Self(provider), tracer)))
    }

    /// From here on spans are made.
    pub(crate) fn switch_on() {
        IS_ON.get_or_init(|| ());
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_EXPORT) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

/// A stage in the life of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A source's change becomes an event.
    Create,
    /// The event is synced in the outbox.
    Store,
    /// The agent sends it to the router.
    Send,
    /// The router checks it, appends it and reads it back.
    Ingest,
    /// The log takes it.
    Append,
    /// A stream judges it and hands it over.
    Deliver,
    /// A consumer's agent takes it.
    Process,
    /// The sink applies it.
    Apply,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Store => "store",
            Self::Send => "send",
            Self::Ingest => "ingest",
            Self::Append => "append",
            Self::Deliver => "deliver",
            Self::Process => "process",
            Self::Apply => "apply",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Create => "producer",
            Self::Send | Self::Append | Self::Apply => "client",
            Self::Ingest | Self::Deliver => "server",
            Self::Process => "consumer",
            Self::Store => "internal",
        }
    }

    /// The conventions' name for it, where they have one.
    const fn operation(self) -> Option<&'static str> {
        match self {
            Self::Create => Some("create"),
            Self::Send | Self::Append => Some("send"),
            Self::Process => Some("process"),
            Self::Store | Self::Ingest | Self::Deliver | Self::Apply => None,
        }
    }
}

/// A stage's span; an event that is not traced has none, at no cost.
#[derive(Debug, Clone)]
pub struct StageSpan {
    span: Span,
    trace_id: TraceId,
}

impl StageSpan {
    /// Begins the trace of an event: `None` where traces are off, or this one is not sampled.
    pub fn create(channel: &str, partition: Partition) -> Option<(Self, TraceContext)> {
        IS_ON.get()?;
        let span = span(Stage::Create, None, channel, partition);
        let context = span.context();
        let made = context.span().span_context().clone();
        let trace = TraceContext::new(made.trace_id().to_bytes(), made.span_id().to_bytes());
        let trace = trace.filter(|_| made.is_sampled())?;
        Some((Self::named(span, made.trace_id()), trace))
    }

    /// A stage of a traced event; `None` for any other.
    pub fn on(
        stage: Stage,
        trace: Option<&TraceContext>,
        channel: &str,
        partition: Partition,
    ) -> Option<Self> {
        IS_ON.get()?;
        let trace = trace?;
        let span = span(stage, None, channel, partition);
        let remote = SpanContext::new(
            TraceId::from_bytes(trace.trace_id()),
            SpanId::from_bytes(trace.span_id()),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        // This fails only if no layer takes the span either.
        drop(span.set_parent(Context::new().with_remote_span_context(remote)));
        Some(Self::named(span, TraceId::from_bytes(trace.trace_id())))
    }

    /// Records the trace's id, which its lines in the log then carry.
    fn named(span: Span, trace_id: TraceId) -> Self {
        span.record("trace_id", field::display(trace_id));
        Self { span, trace_id }
    }

    /// A stage within this one.
    #[must_use]
    pub fn within(&self, stage: Stage, destination: &str, partition: Partition) -> Self {
        Self::named(span(stage, Some(&self.span), destination, partition), self.trace_id)
    }

    /// Adds an attribute, which must not hold a key or a value.
    #[must_use]
    pub fn with(self, attribute: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.span.set_attribute(attribute, value);
        self
    }

    /// Marks the stage as failed: `class` is one of a few words.
    pub fn failed(&self, class: &'static str) {
        self.span.record("otel.status_code", "ERROR");
        self.span.record("error.type", class);
        self.in_scope(|| tracing::warn!(class, "a traced event failed at this stage"));
    }

    /// Logs within carry the trace's id.
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        self.span.in_scope(work)
    }
}

fn span(stage: Stage, parent: Option<&Span>, destination: &str, partition: Partition) -> Span {
    let name = format!("{} {destination}", stage.name());
    let span = tracing::info_span!(
        target: TARGET,
        parent: parent.and_then(Span::id),
        "event",
        trace_id = field::Empty,
        otel.name = name,
        otel.kind = stage.kind(),
        otel.status_code = field::Empty,
        error.type = field::Empty,
        messaging.system = field::Empty,
        messaging.operation.name = field::Empty,
        messaging.operation.type = field::Empty,
        messaging.destination.name = field::Empty,
        messaging.destination.partition.id = field::Empty,
    );
    // Storing an event is not messaging.
    if !matches!(stage, Stage::Store | Stage::Apply) {
        span.record("messaging.system", "dit");
        span.record("messaging.operation.name", stage.name());
        span.record("messaging.destination.name", destination);
        span.record("messaging.destination.partition.id", field::display(partition));
    }
    if let Some(operation) = stage.operation() {
        span.record("messaging.operation.type", operation);
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<bool, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        is_asked_for(find).map_err(|error| error.to_string())
    }

    #[test]
    fn the_standard_variables_switch_traces_on_and_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&[endpoint]), Ok(true));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost/v1/traces")]), Ok(true));
        assert_eq!(asked(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
        assert_eq!(asked(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(asked(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(false));
    }

    #[test]
    fn what_is_not_built_in_is_refused_by_name_and_only_when_asked_for() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let refused = asked(&[endpoint, grpc]).unwrap_err();
        assert!(
            refused.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces go by http/protobuf"),
            "{refused}"
        );
        assert_eq!(asked(&[grpc]), Ok(false));
        assert!(asked(&[("OTEL_TRACES_EXPORTER", "zipkin")]).is_err());
    }

    #[test]
    fn where_traces_are_off_there_is_no_span() {
        let trace = TraceContext::new([1; 16], [2; 8]);
        assert!(StageSpan::create("c", Partition::new(0)).is_none());
        assert!(StageSpan::on(Stage::Ingest, trace.as_ref(), "c", Partition::new(0)).is_none());
    }
}

//! An OpenTelemetry collector: rotel, which logs every span that it receives.
//!
//! Owns its life and the reading of what it wrote. Needs Python with pip for the first start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ports;
use crate::process::Server;
use crate::store::{self, Workplace};

const VERSION: &str = "0.0.1a15";

pub struct Collector {
    port: u16,
    log: PathBuf,
    _server: Server,
    _dir: Workplace,
}

/// A span as the collector got it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// `service.name` of the process that sent it.
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// The id of the span above it; empty where there is none.
    pub parent: String,
    /// Its kind, as OTLP calls it.
    pub kind: String,
    /// Its status, as OTLP calls it.
    pub status: String,
    /// When it began and ended, in nanoseconds since 1970.
    pub begun: u64,
    pub ended: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts one that keeps nothing but its own log.
    pub fn start() -> Result<Self> {
        let part = store::part(&format!("rotel-{VERSION}"), fetch)?;
        let dir = Workplace::new()?;
        let ports = ports::free(2)?;
        let [port, other] = ports[..] else { anyhow::bail!("two ports") };
        let log = dir.path().join("log");
        let words = ["start", "--exporter", "blackhole", "--debug-log", "traces"];
        let more = ["--debug-log-verbosity", "detailed", "--otlp-http-endpoint"];
        let program = part.join("rotel/rotel-agent").into_os_string();
        let mut command = vec![program];
        command.extend(words.into_iter().chain(more).map(Into::into));
        command.push(format!("127.0.0.1:{port}").into());
        command.push("--otlp-grpc-endpoint".into());
        command.push(format!("127.0.0.1:{other}").into());
        let mut server = Server::start(command, &log)?;
        let is_ready = |_: &str| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        server.wait_until(is_ready).context("the collector")?;
        Ok(Self { port, log, _server: server, _dir: dir })
    }

    /// Where spans are sent, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its whole log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The spans that it received; the last may still be coming.
    pub fn spans(&self) -> Vec<Received> {
        let said = self.said();
        let mut spans = Vec::new();
        let mut service = String::new();
        for line in said.lines() {
            let line = line.trim();
            if let Some(attribute) = line.strip_prefix("-> ")
                && let Some((name, value)) = attribute.split_once(": ")
            {
                let value = value.split_once('(').map_or(value, |(_, inner)| inner.trim_end_matches(')'));
                match spans.last_mut() {
                    // A resource comes before its spans.
                    _ if name == "service.name" => value.clone_into(&mut service),
                    Some(Received { attributes, .. }) => {
                        attributes.insert(name.to_owned(), value.to_owned());
                    }
                    None => {}
                }
            } else if line.starts_with("Span #") {
                spans.push(Received { service: service.clone(), ..Received::default() });
            } else if let (Some(span), Some((name, value))) = (spans.last_mut(), line.split_once(':')) {
                span.take(name.trim(), value.trim());
            }
        }
        spans
    }
}

impl Received {
    fn take(&mut self, name: &str, value: &str) {
        match name {
            "Start time" => return self.begun = value.parse().unwrap_or_default(),
            "End time" => return self.ended = value.parse().unwrap_or_default(),
            _ => {}
        }
        let place = match name {
            "Trace ID" => &mut self.trace,
            "Parent ID" => &mut self.parent,
            "ID" => &mut self.id,
            "Name" => &mut self.name,
            "Kind" => &mut self.kind,
            "Status code" => &mut self.status,
            _ => return,
        };
        // Events within a span have names too, further down.
        if place.is_empty() {
            value.clone_into(place);
        }
    }
}

fn fetch(into: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--target"]).arg(into);
    store::run(pip.arg(format!("rotel=={VERSION}")), "Python with pip (Debian: python3-pip)")
}

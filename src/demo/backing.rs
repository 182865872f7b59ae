//! What a demo's network runs on: a log of its own on this disk, a real Kafka, or routers that run elsewhere.
//!
//! Owns the opening of the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use event_log::Log;
use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use router::Routers;

/// What the network runs on.
#[derive(Debug, Clone, Default)]
pub enum Backing {
    /// An embedded log in the demo's folder.
    #[default]
    Embedded,
    /// A Kafka cluster, by `host:port`; the topics get a prefix of their own.
    Kafka(String),
    /// Routers that run already.
    Elsewhere(Elsewhere),
}

/// Routers that run already, and what is needed to join them.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The folder of the authority that made their certificates.
    pub pki: PathBuf,
    pub domain: String,
    /// Where agents connect, as `https://host:port`.
    pub agents: String,
    /// Where operators connect, as `https://host:port`.
    pub operators: String,
    pub secret: Vec<u8>,
}

/// An opened log, and its name for people.
pub(super) struct Opened {
    pub(super) log: Arc<dyn Log>,
    pub(super) routers: Routers,
    pub(super) words: String,
}

pub(super) fn embedded(dir: &Path) -> anyhow::Result<Opened> {
    let log = Arc::new(EmbeddedLog::open(&dir.join("log"), EmbeddedOptions::default())?);
    Ok(Opened { log, routers: Routers::One, words: "a router on an embedded log".to_owned() })
}

/// Topics have one replica: a demo must run on any cluster.
#[cfg(feature = "kafka")]
pub(super) fn kafka(brokers: &str) -> anyhow::Result<Opened> {
    use event_log::kafka::KafkaLog;
    use event_log::kafka_options::KafkaOptions;
    let prefix = format!("dit-demo-{:08x}.", u32::from_be_bytes(platform::random::bytes()?));
    let words = format!("a router on Kafka at {brokers} (topics {prefix}*, which stay)");
    let options = KafkaOptions { brokers: brokers.to_owned(), prefix, replication: 1, security: None };
    Ok(Opened { log: Arc::new(KafkaLog::connect(&options)?), routers: Routers::Several, words })
}

#[cfg(not(feature = "kafka"))]
pub(super) fn kafka(brokers: &str) -> anyhow::Result<Opened> {
    anyhow::bail!(
        "this binary has no Kafka; with it: cargo run --release --features kafka -- demo --kafka {brokers}"
    )
}

//! How to reach a Kafka cluster: the `[kafka]` table of a router's configuration.
//!
//! Owns its keys; their doc comments are the reference.

use std::path::PathBuf;

use serde::Deserialize;

/// The `[kafka]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaOptions {
    /// `host:port`, several with commas: where the cluster is asked first.
    pub brokers: String,
    /// A prefix of every topic and transactional id: several networks may share a cluster. Nothing by default.
    #[serde(default)]
    pub prefix: String,
    /// Replicas of each topic that is made; with three or more, two must be in sync. 3 by default.
    #[serde(default = "default_replication")]
    pub replication: u16,
    /// TLS and SASL; without it the connection is plain.
    pub security: Option<Security>,
}

/// The `[kafka.security]` table; needs a binary with the feature `kafka-tls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// PEM file of the authorities that the brokers' certificates must lead to.
    pub ca: PathBuf,
    /// PEM file of our certificate, where brokers ask for one.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// Name and password, where brokers ask for them.
    pub sasl: Option<Sasl>,
}

/// The `[kafka.security.sasl]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The name.
    pub username: String,
    /// A file that holds the password, and nothing else.
    pub password_file: PathBuf,
}

const fn default_replication() -> u16 {
    3
}

impl KafkaOptions {
    /// The paths in it, to be made relative to the configuration file.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.security.iter_mut().flat_map(|security| {
            let Security { ca, certificate, key, sasl } = security;
            let password = sasl.iter_mut().map(|sasl| &mut sasl.password_file);
            std::iter::once(ca).chain(certificate).chain(key).chain(password)
        })
    }

    /// How many replicas must have a record before it is acknowledged.
    pub const fn min_insync(&self) -> u16 {
        if self.replication >= 3 { 2 } else { 1 }
    }
}

//! A consumer agent's configuration file.
//!
//! Owns its keys; their doc comments are the reference.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use platform::config::{ConfigError, load, relative_to};
use platform::identity::IdentityFiles;
use schemas::ids::{AgreementNumber, ChannelName};
use serde::Deserialize;

use crate::sink::postgres::PostgresTarget;

/// `consumer.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
    /// The router, as `https://host:port`.
    pub router: String,
    /// Certificate, key, authorities.
    pub identity: IdentityFiles,
    /// The agent's own folder: replicas and status.
    pub data_dir: PathBuf,
    /// Where `/metrics`, `/livez` and `/readyz` are told, in plain HTTP and to anybody; nowhere without it.
    pub observe_listen: Option<SocketAddr>,
    /// What to receive.
    #[serde(default)]
    pub agreement: Vec<AgreementConfig>,
    /// How often a replica is compared with its part of the register, and repaired where it differs; `24h` by default, `0s` is never.
    #[serde(default = "a_day")]
    pub reconcile_every: SignedDuration,
    /// How log lines look; `text` by default.
    #[serde(default)]
    pub log_format: platform::telemetry::Format,
}

/// Once a day: for each comparison a router reads the channel's present state.
const fn a_day() -> SignedDuration {
    SignedDuration::from_hours(24)
}

/// One agreement and where its replica goes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementConfig {
    /// The agreement's number.
    pub number: AgreementNumber,
    /// Its channel; names the replica's files.
    pub channel: ChannelName,
    /// A table in PostgreSQL for the replica; files in `data_dir` without it.
    pub postgres: Option<PostgresTarget>,
}

impl ConsumerConfig {
    /// The time between comparisons; none for never.
    pub fn checks(&self) -> Option<Duration> {
        Duration::try_from(self.reconcile_every).ok().filter(|every| !every.is_zero())
    }

    /// Reads the file; relative paths are relative to it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load(path)?;
        relative_to(path, config.identity.paths_mut());
        relative_to(path, [&mut config.data_dir]);
        let targets = config.agreement.iter_mut().filter_map(|agreement| agreement.postgres.as_mut());
        relative_to(path, targets.flat_map(PostgresTarget::paths_mut));
        Ok(config)
    }
}

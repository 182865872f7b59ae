//! A producer agent's configuration file.
//!
//! Owns its keys; their doc comments are the reference.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use platform::config::{ConfigError, load, relative_to};
use platform::identity::IdentityFiles;
use schemas::ids::ChannelName;
use serde::Deserialize;

use crate::endpoint::EndpointConfig;
use crate::source::file::drop_folder::DropSettings;
use crate::source::format::TableFormat;
use crate::take::guard::Guard;

/// `producer.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducerConfig {
    /// The router, as `https://host:port`.
    pub router: String,
    /// Certificate, key, authorities.
    pub identity: IdentityFiles,
    /// The trust domain in everybody's certificates.
    pub domain: String,
    /// The channel that this agent provides.
    pub channel: ChannelName,
    /// A file with the subject's schema that dropped files are read into.
    pub schema: PathBuf,
    /// The agent's own folder: images and outbox.
    pub data_dir: PathBuf,
    /// The folder that files are dropped into.
    pub drop_dir: PathBuf,
    /// Whether to take the channel over from another agent of this participant that is gone for good; `false` by default.
    #[serde(default)]
    pub take_over: bool,
    /// The local endpoint for single changes; none without it.
    pub http: Option<EndpointConfig>,
    /// Where `/metrics`, `/livez` and `/readyz` are told, in plain HTTP and to anybody; nowhere without it.
    pub observe_listen: Option<SocketAddr>,
    /// When a dropped file is whole.
    #[serde(default)]
    pub drop: DropSettings,
    /// How dropped files are written.
    #[serde(default)]
    pub format: TableFormat,
    /// When a file is held for a person to look at.
    #[serde(default)]
    pub guard: Guard,
    /// How log lines look; `text` by default.
    #[serde(default)]
    pub log_format: platform::telemetry::Format,
}

impl ProducerConfig {
    /// Reads the file; relative paths are relative to it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load(path)?;
        relative_to(path, config.identity.paths_mut());
        relative_to(path, [&mut config.schema, &mut config.data_dir, &mut config.drop_dir]);
        let http = config.http.iter_mut();
        relative_to(path, http.flat_map(|http| http.socket.iter_mut().chain(http.token_file.iter_mut())));
        Ok(config)
    }
}

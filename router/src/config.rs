//! A router's configuration file.
//!
//! Owns its keys; their doc comments are the reference.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use platform::config::{ConfigError, load, relative_to};
use platform::identity::IdentityFiles;
use scope::secret::NetworkSecret;
use serde::Deserialize;

/// `router.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where operators connect; loopback unless there is a reason.
    #[serde(default = "default_admin_listen")]
    pub admin_listen: SocketAddr,
    /// The trust domain in everybody's certificates.
    pub domain: String,
    /// Certificate, key, authorities.
    pub identity: IdentityFiles,
    /// A file of at least 32 secret bytes, the same on every router.
    pub network_secret: PathBuf,
    /// The folder of the embedded log.
    pub log_dir: PathBuf,
    /// A folder of declarative files.
    pub declared: Option<PathBuf>,
    /// How log lines look: `text` or `json`.
    #[serde(default)]
    pub log_format: platform::telemetry::Format,
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9444))
}

impl RouterConfig {
    /// Reads the file; relative paths are relative to it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load(path)?;
        relative_to(path, config.identity.paths_mut());
        relative_to(path, [&mut config.network_secret, &mut config.log_dir]);
        relative_to(path, config.declared.as_mut());
        Ok(config)
    }

    /// The network secret.
    pub fn secret(&self, path: &Path) -> Result<NetworkSecret, ConfigError> {
        let file = &self.network_secret;
        let bytes =
            std::fs::read(file).map_err(|error| ConfigError::Unreadable { path: file.clone(), error })?;
        NetworkSecret::new(bytes).map_err(|error| ConfigError::Invalid {
            path: path.to_owned(),
            key: "network_secret".to_owned(),
            problem: error.to_string(),
        })
    }
}

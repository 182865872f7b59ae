//! A router's configuration file.
//!
//! Owns its keys; their doc comments are the reference.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use event_log::kafka_options::KafkaOptions;
use platform::config::{ConfigError, load, relative_to};
use platform::identity::IdentityFiles;
use scope::secret::NetworkSecret;
use serde::Deserialize;

use crate::registry::external::RegistryOptions;
use crate::service::Routers;

/// `router.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where operators connect; `127.0.0.1:9444` by default, and the loopback unless there is a reason.
    #[serde(default = "default_admin_listen")]
    pub admin_listen: SocketAddr,
    /// Where `/metrics`, `/livez` and `/readyz` are told, in plain HTTP and to anybody; nowhere without it.
    pub observe_listen: Option<SocketAddr>,
    /// The trust domain in everybody's certificates.
    pub domain: String,
    /// Certificate, key, authorities.
    pub identity: IdentityFiles,
    /// A file of at least 32 secret bytes, the same on every router.
    pub network_secret: PathBuf,
    /// The folder of the embedded log: one machine, one router.
    pub log_dir: Option<PathBuf>,
    /// The log on Kafka, for several routers. One of the two must be there.
    pub kafka: Option<KafkaOptions>,
    /// An external schema registry; the router's own without it.
    pub registry: Option<RegistryOptions>,
    /// A folder of declarative files.
    pub declared: Option<PathBuf>,
    /// How log lines look; `text` by default.
    #[serde(default)]
    pub log_format: platform::telemetry::Format,
}

/// Where a router's log is.
#[derive(Debug)]
pub enum LogBackend<'c> {
    /// In a folder of its own.
    Embedded(&'c Path),
    Kafka(&'c KafkaOptions),
}

impl LogBackend<'_> {
    /// How many routers may share this log.
    pub const fn routers(&self) -> Routers {
        match self {
            Self::Embedded(_) => Routers::One,
            Self::Kafka(_) => Routers::Several,
        }
    }
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9444))
}

impl RouterConfig {
    /// Reads the file; relative paths are relative to it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load(path)?;
        relative_to(path, config.identity.paths_mut());
        relative_to(path, [&mut config.network_secret]);
        relative_to(path, config.log_dir.as_mut());
        relative_to(path, config.registry.iter_mut().filter_map(|registry| registry.password_file.as_mut()));
        relative_to(path, config.kafka.iter_mut().flat_map(KafkaOptions::paths_mut));
        relative_to(path, config.declared.as_mut());
        Ok(config)
    }

    /// Where the log is.
    pub fn log(&self, path: &Path) -> Result<LogBackend<'_>, ConfigError> {
        match (&self.log_dir, &self.kafka) {
            (Some(folder), None) => Ok(LogBackend::Embedded(folder)),
            (None, Some(options)) => Ok(LogBackend::Kafka(options)),
            _ => Err(ConfigError::Invalid {
                path: path.to_owned(),
                key: "log_dir, [kafka]".to_owned(),
                problem: "write one of the two: the embedded log's folder, or a Kafka cluster".to_owned(),
            }),
        }
    }

    pub fn secret(&self, path: &Path) -> Result<NetworkSecret, ConfigError> {
        let file = &self.network_secret;
        let invalid = |problem: String| {
            let path = path.to_owned();
            let key = "network_secret".to_owned();
            ConfigError::Invalid { path, key, problem }
        };
        platform::closed::secret(file).map_err(|error| invalid(error.to_string()))?;
        let bytes =
            std::fs::read(file).map_err(|error| ConfigError::Unreadable { path: file.clone(), error })?;
        NetworkSecret::new(bytes).map_err(|error| invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(more: &str) -> Result<String, String> {
        let text = format!(
            "listen = \"127.0.0.1:1\"\ndomain = \"d\"\nnetwork_secret = \"s\"\n{more}\n[identity]\n\
             certificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"\n"
        );
        let path = Path::new("router.toml");
        let config: RouterConfig = platform::config::parse(path, &text).map_err(|e| e.to_string())?;
        config.log(path).map(|backend| format!("{backend:?}")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_router_has_one_log() {
        let kafka = "[kafka]\nbrokers = \"b:1\"\n";
        assert!(log_of("log_dir = \"log\"").is_ok_and(|backend| backend.starts_with("Embedded")));
        assert!(log_of(kafka).is_ok_and(|backend| backend.contains("replication: 3")));
        for neither in [String::new(), format!("log_dir = \"log\"\n{kafka}")] {
            let error = log_of(&neither).unwrap_err();
            assert!(error.contains("router.toml: log_dir, [kafka]: write one of the two"), "{error}");
        }
        assert!(log_of("[kafka]\nbroker = 1\n").unwrap_err().contains("unknown field `broker`"));
    }
}

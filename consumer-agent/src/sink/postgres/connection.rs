//! A connection to PostgreSQL, with TLS unless the server is on this machine's loopback or socket.
//!
//! Owns the `[agreement.postgres]` keys and the task that drives the connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresError;
use super::prepared::Prepared;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A dead connection is found within a minute.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Limits after which the server ends waits for locks, statements that hang, and transactions of agents that have
/// stopped. Also how it spells values, whatever its own defaults are.
const SESSION: &str = "-c lock_timeout=30s -c statement_timeout=300s -c tcp_keepalives_idle=30 \
     -c idle_in_transaction_session_timeout=60s -c standard_conforming_strings=on \
     -c TimeZone=UTC -c DateStyle=ISO -c bytea_output=hex -c extra_float_digits=1";

/// Where a replica table is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresTarget {
    /// `postgresql://user@host:port/database`; the password is in a file of its own.
    pub url: String,
    /// A file that holds the password, and nothing else.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that the server's certificate must lead to; needed for another machine.
    pub ca: Option<PathBuf>,
    /// The schema that the agent's role may write; `dit` by default.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// The table; the channel's name unless said otherwise.
    pub table: Option<String>,
}

fn default_schema() -> String {
    "dit".to_owned()
}

impl PostgresTarget {
    /// Whether the configuration is enough to connect; the server is not contacted.
    pub fn check(&self) -> Result<(), PostgresError> {
        way(self).map(drop)
    }

    /// The paths in it, to be made relative to the configuration file.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.password_file.iter_mut().chain(&mut self.ca)
    }
}

/// An open connection; it is closed when dropped.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) prepared: Prepared,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to the target.
pub(super) async fn connect(target: &PostgresTarget) -> Result<Connection, PostgresError> {
    let late = |_| PostgresError::Late { doing: "connecting", seconds: CONNECT_LIMIT.as_secs() };
    tokio::time::timeout(CONNECT_LIMIT, connect_now(target)).await.map_err(late)?
}

/// How to connect to the target, and the authorities that its certificate must lead to; none for a server on this machine.
type Way = (Config, Option<rustls::ClientConfig>);

/// Works out the [`Way`] from the configuration alone.
fn way(target: &PostgresTarget) -> Result<Way, PostgresError> {
    let wrong = |problem: String| PostgresError::Target { problem };
    let mut config: Config = target
        .url
        .parse()
        .map_err(|e| wrong(format!("url: {e}; write postgresql://user@host:port/database")))?;
    let options = format!("{} {SESSION}", config.get_options().unwrap_or_default());
    config
        .application_name("dit-consumer")
        .connect_timeout(CONNECT_LIMIT)
        .keepalives_idle(KEEPALIVE)
        .tcp_user_timeout(KEEPALIVE)
        .options(options);
    if let Some(file) = &target.password_file {
        let password = platform::closed::password(file).map_err(|error| wrong(error.to_string()))?;
        config.password(password);
    }
    match &target.ca {
        Some(ca) => {
            config.ssl_mode(SslMode::Require);
            Ok((config, Some(tls(ca)?)))
        }
        None if is_here(&config) => Ok((config, None)),
        None => {
            Err(wrong("the server is on another machine: write ca = \"its authority's PEM file\"".to_owned()))
        }
    }
}

async fn connect_now(target: &PostgresTarget) -> Result<Connection, PostgresError> {
    let failed = PostgresError::during("connecting");
    match way(target)? {
        (config, Some(tls)) => {
            let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await.map_err(failed)?;
            Ok(Connection { client, prepared: Prepared::default(), driver: tokio::spawn(drive(connection)) })
        }
        (config, None) => {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            Ok(Connection { client, prepared: Prepared::default(), driver: tokio::spawn(drive(connection)) })
        }
    }
}

async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        // The user of the client gets the error too.
        tracing::debug!(%error, "the connection to PostgreSQL ended");
    }
}

/// Whether all hosts in the configuration are this machine.
fn is_here(config: &Config) -> bool {
    let hosts = config.get_hosts();
    let addresses = config.get_hostaddrs();
    let some = !(hosts.is_empty() && addresses.is_empty());
    some && hosts.iter().all(names_this_machine) && addresses.iter().all(std::net::IpAddr::is_loopback)
}

fn names_this_machine(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn tls(ca: &Path) -> Result<rustls::ClientConfig, PostgresError> {
    let wrong = |problem: String| PostgresError::Target { problem: format!("{}: {problem}", ca.display()) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|e| wrong(e.to_string()))?.with_root_certificates(roots).with_no_client_auth())
}

//! A router with its sockets: its core, and the listeners for agents, operators and monitoring.
//!
//! Owns the order in which they begin. It reads no configuration: the process does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::Log;
use platform::identity::{Identity, Peer};
use platform::observe as observing;
use schemas::ids::RouterInstance;
use scope::secret::NetworkSecret;

use crate::declarations::Declared;
use crate::http;
use crate::http::server::{ServeError, serve};
use crate::observe::Watch;
use crate::registry::external::External;
use crate::service::{Core, CoreError, CoreParts, Routers};

/// What a router is made of.
pub struct Parts {
    pub log: Arc<dyn Log>,
    /// How many routers share the log.
    pub routers: Routers,
    /// The registry that assigns schema ids; `None` for the router's own.
    pub registry: Option<External>,
    pub identity: Identity,
    /// Its name among routers that share its certificate.
    pub instance: Option<RouterInstance>,
    /// The trust domain of the names in certificates.
    pub domain: String,
    /// For keyed hashes.
    pub secret: NetworkSecret,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    pub declared: Declared,
    pub watched: Watched,
}

/// How a router is watched.
#[derive(Debug, Default)]
pub struct Watched {
    /// Where metrics and health are served; `None` for nowhere.
    pub listen: Option<SocketAddr>,
    /// Metrics report the disks of these folders.
    pub disks: Vec<PathBuf>,
}

/// Why a router could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(
        "[identity] certificate: it names no router of this domain ({0}); make one with: dit pki --router name=host"
    )]
    NoRouter(String),
}

pub struct Router {
    core: Core,
    address: SocketAddr,
    admin_address: SocketAddr,
}

impl Router {
    /// Begins its core, then listens.
    pub async fn start(parts: Parts) -> Result<Self, RouterError> {
        let Parts { log, routers, registry, identity, instance, domain, secret, declared, watched, .. } =
            parts;
        let name = match identity.own_name(&domain) {
            Ok(Peer::Router(name)) => match &instance {
                None => name,
                Some(instance) => format!("{name}.{instance}"),
            },
            Ok(other) => return Err(RouterError::NoRouter(other.to_string())),
            Err(error) => return Err(RouterError::NoRouter(error.to_string())),
        };
        let disks = watched.disks;
        let of_core =
            CoreParts { log, routers, registry, identity: &identity, name, secret, declared, disks };
        let core = Core::start(of_core).await?;
        let tasks = &core.tasks;
        let address =
            serve(parts.listen, &identity, domain.clone(), http::agent_routes(&core), tasks).await?;
        let admin_address =
            serve(parts.admin_listen, &identity, domain, http::admin_routes(&core), tasks).await?;
        if let Some(listen) = watched.listen {
            let watch = Arc::new(Watch::new(core.clone()));
            let listened = observing::listen(listen, watch, tasks).await;
            listened.map_err(|error| ServeError::Listen { address: listen, error })?;
        }
        tracing::info!(%address, %admin_address, "the router listens");
        Ok(Self { core, address, admin_address })
    }

    /// Where agents connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Its core, for the process that runs it.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Closes streams with a closing record, drains, joins; `false` when something did not end in time.
    pub async fn stop(self, limit: Duration) -> bool {
        self.core.stop(limit).await
    }
}

//! The router: append, then decide; deliver under agreements.
//!
//! Owns the log, control, ingest, state and delivery. All durable state is in the log: any router can serve any
//! agent. It must never import an agent.

pub mod audit;
pub mod channel;
pub mod channels;
pub mod config;
pub mod control;
pub mod delivery;
pub mod http;
pub mod ingest;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod observe;
pub mod process;
pub mod registry;
pub mod state;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use platform::identity::{Identity, Peer};
use platform::metrics::MetricsError;
use platform::observe as observing;
use platform::shutdown::Tasks;
use schemas::agreement::Agreement;
use schemas::ids::RouterInstance;
use scope::secret::NetworkSecret;

use crate::audit::service::Audit;
use crate::channels::{Channels, StartError};
use crate::control::declared::{Declared, DeclaredError};
use crate::control::service::Control;
use crate::delivery::admissions::Admissions;
use crate::delivery::scopes::{ScopeError, Scopes};
use crate::http::server::{ServeError, serve};
use crate::ingest::service::Publisher;
use crate::lease::service::Lease;
use crate::log::{Log, TopicError};
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::registry::Registry;
use crate::registry::external::External;

/// What every request needs; clones share it.
#[derive(Clone)]
pub struct Core {
    /// Participants, channels, agreements, schemas.
    pub control: Control,
    /// Schemas and their ids.
    pub registry: Registry,
    /// The channels at work.
    pub channels: Channels,
    /// Whether data may be handed over.
    pub lease: Lease,
    /// The way in.
    pub publisher: Publisher,
    /// Who was admitted to what.
    pub audit: Audit,
    /// The open streams.
    pub admissions: Admissions,
    /// What is counted.
    pub metrics: Metrics,
    /// For keyed hashes.
    pub secret: Arc<NetworkSecret>,
    /// To run streams in.
    pub tasks: Tasks,
}

impl Core {
    /// Checks an agreement against its channel's schema before it goes to control.
    pub fn check_agreement(&self, agreement: &Agreement) -> Result<(), ScopeError> {
        let view = self.control.view();
        match view.channels.get(&agreement.channel) {
            // Control itself refuses a channel that is not there.
            None => Ok(()),
            Some(entry) => {
                let (entry, agreement) = (Arc::clone(entry), Arc::new(agreement.clone()));
                Scopes::new(&view, entry, agreement, Arc::clone(&self.secret)).map(drop)
            }
        }
    }
}

/// How many routers a log may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routers {
    /// One, and the log itself sees to it: the embedded log's lock.
    One,
    /// Any number, each under a lease: Kafka.
    Several,
}

/// What a router is made of.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn Log>,
    /// How many routers it has.
    pub routers: Routers,
    /// The registry that gives schemas their ids; the router's own without it.
    pub registry: Option<External>,
    /// Who it is.
    pub identity: Identity,
    /// Which of those that have this certificate it is.
    pub instance: Option<RouterInstance>,
    /// The trust domain of everybody's names.
    pub domain: String,
    /// For keyed hashes.
    pub secret: NetworkSecret,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    /// What declarative files say.
    pub declared: Declared,
    /// Who watches.
    pub watched: Watched,
}

/// How a router is watched.
#[derive(Debug, Default)]
pub struct Watched {
    /// Where metrics and health are told; nowhere without it.
    pub listen: Option<SocketAddr>,
    /// The folders whose disks are looked at.
    pub disks: Vec<PathBuf>,
}

/// The audit may write its last entries even where the streams used up the time to stop.
const AUDIT_DRAIN: Duration = Duration::from_secs(2);

/// Why a router could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The control topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The declarations.
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    /// A channel.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A metric.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Its certificate is another's.
    #[error(
        "the certificate names {0}, not a router of this domain; make one with: dit pki --router name=host"
    )]
    NoRouter(String),
}

/// A running router.
pub struct Router {
    core: Core,
    tasks: Tasks,
    audit_tasks: Tasks,
    address: SocketAddr,
    admin_address: SocketAddr,
}

impl Router {
    /// Folds control, applies what is declared, starts the channels, listens.
    pub async fn start(parts: Parts) -> Result<Self, RouterError> {
        let tasks = Tasks::new();
        let control = Control::start(Arc::clone(&parts.log), &tasks).await?;
        let name = match parts.identity.own_name(&parts.domain) {
            Ok(Peer::Router(name)) => match &parts.instance {
                None => name,
                Some(instance) => format!("{name}.{instance}"),
            },
            other => return Err(RouterError::NoRouter(format!("{other:?}"))),
        };
        // It outlives the streams: their ends are its last entries.
        let audit_tasks = Tasks::new();
        let audit = Audit::start(Arc::clone(&parts.log), control.clone(), &name, &audit_tasks).await?;
        let registry = Registry::new(control.clone(), parts.registry);
        let changes = parts.declared.apply(&registry, &parts.secret).await?;
        if changes > 0 {
            tracing::info!(changes, "applied the declarative files");
        }
        // It outlives the streams too: their last frames need it.
        let lease = match parts.routers {
            Routers::One => Lease::sole(),
            Routers::Several => {
                Lease::start(Arc::clone(&parts.log), control.clone(), &name, &audit_tasks).await?
            }
        };
        let metrics = Metrics::new(&parts.identity, parts.watched.disks)?;
        let channels = Channels::start(parts.log, &registry, lease.clone(), metrics.clone(), &tasks).await?;
        let core = Core {
            publisher: Publisher::new(registry.clone(), channels.clone(), metrics.clone()),
            metrics,
            control,
            registry,
            channels,
            lease,
            audit,
            admissions: Admissions::default(),
            secret: Arc::new(parts.secret),
            tasks: tasks.clone(),
        };
        let (stopping, expiry) =
            (tasks.stopping(), control::expiry::watch(core.control.clone(), core.lease.clone()));
        tasks.spawn(async move {
            tokio::select! {
                () = stopping => {}
                () = expiry => {}
            }
        });
        let observed = middleware::from_fn_with_state(core.metrics.clone(), http::observed::observe);
        let agents = http::agents::routes().merge(http::registry::routes());
        let agents = agents.layer(observed.clone()).with_state(core.clone());
        let admin = http::admin::routes().layer(observed).with_state(core.clone());
        let address = serve(parts.listen, &parts.identity, parts.domain.clone(), agents, &tasks).await?;
        let admin_address = serve(parts.admin_listen, &parts.identity, parts.domain, admin, &tasks).await?;
        if let Some(listen) = parts.watched.listen {
            let watch = Arc::new(Watch::new(core.clone()));
            let listened = observing::listen(listen, watch, &tasks).await;
            listened.map_err(|error| ServeError::Listen { address: listen, error })?;
        }
        tracing::info!(%address, %admin_address, "the router listens");
        Ok(Self { core, tasks, audit_tasks, address, admin_address })
    }

    /// Where agents connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What its requests use: for the process that runs it.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Closes streams with a word, drains, joins; `false` when something did not end within the bound.
    pub async fn stop(self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let served = self.tasks.stop_and_join(limit).await;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.audit_tasks.stop_and_join(left.max(AUDIT_DRAIN)).await && served
    }
}

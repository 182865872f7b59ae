//! A router but for its sockets: what every request needs, and the routes that serve it.
//!
//! Owns the order in which its parts begin and end. It must never open a listener: the process does, and the
//! simulation has none.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use platform::identity::Identity;
use platform::metrics::MetricsError;
use platform::shutdown::Tasks;
use schemas::agreement::Agreement;
use scope::secret::NetworkSecret;

use crate::audit::service::Audit;
use crate::channels::{Channels, StartError};
use crate::control::declared::{Declared, DeclaredError};
use crate::control::service::Control;
use crate::delivery::admissions::Admissions;
use crate::delivery::scopes::{ScopeError, Scopes};
use crate::ingest::service::Publisher;
use crate::lease::service::Lease;
use crate::log::{Log, TopicError};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::external::External;
use crate::{Routers, control, http};

/// The audit may write its last entries even where the streams used up the time to stop.
const AUDIT_DRAIN: Duration = Duration::from_secs(2);

/// What a core is made of.
pub struct CoreParts<'p> {
    /// The log.
    pub log: Arc<dyn Log>,
    /// How many routers it has.
    pub routers: Routers,
    /// The registry that gives schemas their ids; the router's own without it.
    pub registry: Option<External>,
    /// Whose certificate's time is watched.
    pub identity: &'p Identity,
    /// Its name among the routers.
    pub name: String,
    /// For keyed hashes.
    pub secret: NetworkSecret,
    /// What declarative files say.
    pub declared: Declared,
    /// The folders whose disks are looked at.
    pub disks: Vec<PathBuf>,
}

/// Why a core could not begin.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The control topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The declarations.
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    /// A channel.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A metric.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

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
    /// What outlives the streams.
    last: Tasks,
}

impl Core {
    /// Folds control, applies what is declared, starts the channels.
    pub async fn start(parts: CoreParts<'_>) -> Result<Self, CoreError> {
        let CoreParts { log, routers, registry, identity, name, secret, declared, disks } = parts;
        let tasks = Tasks::new();
        let control = Control::start(Arc::clone(&log), &tasks).await?;
        // The streams' ends are the audit's last entries, and their last frames need the lease.
        let last = Tasks::new();
        let audit = Audit::start(Arc::clone(&log), control.clone(), &name, &last).await?;
        let registry = Registry::new(control.clone(), registry);
        let changes = declared.apply(&registry, &secret).await?;
        if changes > 0 {
            tracing::info!(changes, "applied the declarative files");
        }
        let lease = match routers {
            Routers::One => Lease::sole(),
            Routers::Several => Lease::start(Arc::clone(&log), control.clone(), &name, &last).await?,
        };
        let metrics = Metrics::new(identity, disks)?;
        let channels = Channels::start(log, &registry, lease.clone(), metrics.clone(), &tasks).await?;
        let core = Self {
            publisher: Publisher::new(registry.clone(), channels.clone(), metrics.clone()),
            metrics,
            control,
            registry,
            channels,
            lease,
            audit,
            admissions: Admissions::default(),
            secret: Arc::new(secret),
            tasks,
            last,
        };
        let (stopping, expiry) =
            (core.tasks.stopping(), control::expiry::watch(core.control.clone(), core.lease.clone()));
        core.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = expiry => {}
            }
        });
        Ok(core)
    }

    /// The routes that agents may use.
    pub fn agents(&self) -> axum::Router {
        let routes = http::agents::routes().merge(http::registry::routes());
        self.serve(routes)
    }

    /// The routes that operators may use.
    pub fn admin(&self) -> axum::Router {
        self.serve(http::admin::routes())
    }

    fn serve(&self, routes: axum::Router<Self>) -> axum::Router {
        let observed = middleware::from_fn_with_state(self.metrics.clone(), http::observed::observe);
        routes.layer(observed).with_state(self.clone())
    }

    /// Closes streams with a word, drains, joins; `false` when something did not end within the bound.
    pub async fn stop(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let served = self.tasks.stop_and_join(limit).await;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.last.stop_and_join(left.max(AUDIT_DRAIN)).await && served
    }

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

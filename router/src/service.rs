//! A router without its sockets: what every request needs.
//!
//! Owns the order in which its parts start and stop. It must never know how requests arrive:
//! `http` does, and the simulation has no sockets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Log, TopicError};
use platform::identity::Identity;
use platform::metrics::MetricsError;
use platform::shutdown::Tasks;
use schemas::agreement::Agreement;
use scope::secret::NetworkSecret;

use crate::audit::service::Audit;
use crate::channels::Channels;
use crate::channels::start::ChannelStartError;
use crate::control::service::Control;
use crate::declarations::{Declared, DeclaredError};
use crate::delivery::service::{Deliveries, DeliveriesParts};
use crate::expiry;
use crate::grants::{Grant, GrantError};
use crate::ingest::service::Publisher;
use crate::lease::service::Lease;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::external::External;

/// Time for the audit's last entries, even if the streams used up the time to stop.
const AUDIT_DRAIN: Duration = Duration::from_secs(2);

/// How many routers a log may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routers {
    /// One; the embedded log's lock enforces it.
    One,
    /// Any number, each under a lease: Kafka.
    Several,
}

/// What a core is made of.
pub struct CoreParts<'p> {
    pub log: Arc<dyn Log>,
    /// How many routers share the log.
    pub routers: Routers,
    /// The registry that assigns schema ids; `None` for the router's own.
    pub registry: Option<External>,
    /// Metrics report the end of its certificate.
    pub identity: &'p Identity,
    /// Its name in leases and in the audit.
    pub name: String,
    /// For keyed hashes.
    pub secret: NetworkSecret,
    pub declared: Declared,
    /// Metrics report the disks of these folders.
    pub disks: Vec<PathBuf>,
}

/// Why a core could not begin.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    #[error(transparent)]
    Start(#[from] ChannelStartError),
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
    pub publisher: Publisher,
    /// Who was admitted to what.
    pub audit: Audit,
    pub deliveries: Deliveries,
    pub metrics: Metrics,
    /// For keyed hashes.
    pub secret: Arc<NetworkSecret>,
    /// Runs the streams.
    pub tasks: Tasks,
    /// Outlives the streams: the audit and the lease.
    last: Tasks,
}

impl Core {
    /// Folds control, applies the declarations, starts the channels. After a failure no task is left.
    pub async fn start(parts: CoreParts<'_>) -> Result<Self, CoreError> {
        // Streams stop first: the audit records their ends, and their last frames need the lease.
        let tasks = Tasks::new();
        let last = Tasks::new();
        let begun = Self::begin(parts, tasks.clone(), last.clone()).await;
        if begun.is_err() {
            // Its beats would hold shards of the state for a router that does not serve.
            for begun in [tasks, last] {
                begun.stop_and_join(AUDIT_DRAIN).await;
            }
        }
        begun
    }

    async fn begin(parts: CoreParts<'_>, tasks: Tasks, last: Tasks) -> Result<Self, CoreError> {
        let CoreParts { log, routers, registry, identity, name, secret, declared, disks } = parts;
        let control = Control::start(Arc::clone(&log), &tasks).await?;
        let audit = Audit::start(Arc::clone(&log), control.clone(), &name, &last).await?;
        let registry = Registry::new(control.clone(), registry);
        let applied = declared.apply(&registry, &secret).await?;
        applied.tell();
        let lease = match routers {
            Routers::One => Lease::sole(),
            Routers::Several => Lease::start(Arc::clone(&log), control.clone(), &name, &last).await?,
        };
        let metrics = Metrics::new(identity, disks)?;
        metrics.declared(applied.skipped.len(), applied.drifted.len());
        let channels = Channels::start(log, &registry, lease.clone(), metrics.clone(), &tasks).await?;
        let secret = Arc::new(secret);
        let deliveries = Deliveries::new(DeliveriesParts {
            control: control.clone(),
            channels: channels.clone(),
            lease: lease.clone(),
            audit: audit.clone(),
            metrics: metrics.clone(),
            secret: Arc::clone(&secret),
            tasks: tasks.clone(),
        });
        let core = Self {
            publisher: Publisher::new(registry.clone(), channels.clone(), metrics.clone()),
            metrics,
            control,
            registry,
            channels,
            lease,
            audit,
            deliveries,
            secret,
            tasks,
            last,
        };
        let stopping = core.tasks.stopping();
        let expiry = expiry::watch(core.control.clone(), core.lease.clone());
        core.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = expiry => {}
            }
        });
        Ok(core)
    }

    /// Closes streams with a closing record, drains, joins; `false` when something did not end in time.
    pub async fn stop(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let served = self.tasks.stop_and_join(limit).await;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.last.stop_and_join(left.max(AUDIT_DRAIN)).await && served
    }

    /// Checks an agreement against its channel's schema before it goes to control.
    pub fn check_agreement(&self, agreement: &Agreement) -> Result<(), GrantError> {
        let view = self.control.view();
        match view.channels.get(&agreement.channel) {
            // Control itself refuses an unknown channel.
            None => Ok(()),
            Some(entry) => {
                let entry = Arc::clone(entry);
                let agreement = Arc::new(agreement.clone());
                Grant::new(&view, entry, agreement, Arc::clone(&self.secret)).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;
    use crate::registry::external::RegistryOptions;
    use event_log::memory::MemoryLog;

    #[tokio::test]
    async fn a_router_that_cannot_begin_leaves_nothing_at_work() {
        let identity = fixtures::identity();
        // Its schema has to be registered, and the registry is down. The start fails after control and audit run.
        let channel = json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 1, "key": {"fields": ["k"]},
            "schema": {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]}});
        let options =
            RegistryOptions { url: "http://127.0.0.1:1".to_owned(), username: None, password_file: None };
        let participants = vec![serde_json::from_value(json!({"id": "1", "name": "a"})).unwrap()];
        let channels = vec![serde_json::from_value(channel).unwrap()];
        let log = Arc::new(MemoryLog::default());
        let begun = Core::start(CoreParts {
            log: Arc::clone(&log) as Arc<dyn Log>,
            routers: Routers::Several,
            registry: Some(External::new(&options).unwrap()),
            identity: &identity,
            name: "r".to_owned(),
            secret: NetworkSecret::new(vec![1; 32]).unwrap(),
            declared: Declared { participants, channels, ..Declared::default() },
            disks: Vec::new(),
        });
        assert!(matches!(begun.await, Err(CoreError::Declared(_))));
        assert_eq!(Arc::strong_count(&log), 1, "somebody still holds the log");
    }
}

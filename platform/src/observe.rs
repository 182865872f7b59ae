//! The listener for monitoring: `/metrics`, `/livez`, `/readyz`.
//!
//! Owns the form of the answers. It does not identify callers and must say nothing of any subject; the network decides
//! who may reach it.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::shutdown::Tasks;

/// One thing that a process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// The fault, if there is one.
    pub fault: Option<String>,
    /// Whether a fault makes the process useless.
    is_vital: bool,
}

impl Check {
    /// The result for a part that the process cannot do without.
    pub const fn new(name: &'static str, fault: Option<String>) -> Self {
        Self { name, fault, is_vital: true }
    }

    /// The result for a part that concerns only some users: a fault is reported, and the process stays ready.
    pub const fn reported(name: &'static str, fault: Option<String>) -> Self {
        Self { name, fault, is_vital: false }
    }
}

/// A process that can be watched.
#[async_trait]
pub trait Observed: Send + Sync + 'static {
    /// Its metrics, as they are now.
    async fn metrics(&self) -> String;
    /// Checks everything that the process needs.
    async fn checks(&self) -> Vec<Check>;
}

/// Listens until `tasks` stop; returns the bound address.
pub async fn listen(
    address: SocketAddr,
    observed: Arc<dyn Observed>,
    tasks: &Tasks,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let watched = Watched { observed, tasks: tasks.clone() };
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(watched);
    let stopping = tasks.stopping();
    tasks.spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(stopping).await;
        if let Err(error) = served {
            tracing::error!(%error, "the listener for metrics and health checks has stopped");
        }
    });
    tracing::info!(address = %local, "serves metrics and health checks");
    Ok(local)
}

#[derive(Clone)]
struct Watched {
    observed: Arc<dyn Observed>,
    tasks: Tasks,
}

async fn metrics(State(watched): State<Watched>) -> Response {
    let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (kind, watched.observed.metrics().await).into_response()
}

async fn ready(State(watched): State<Watched>) -> Response {
    let mut checks = watched.observed.checks().await;
    if watched.tasks.is_stopping() {
        checks.push(Check::new("stopping", Some("this process was told to stop".to_owned())));
    }
    let is_ready = checks.iter().all(|check| check.fault.is_none() || !check.is_vital);
    let reported: Vec<_> = checks
        .iter()
        .map(|check| json!({"check": check.name, "ok": check.fault.is_none(), "fault": check.fault}))
        .collect();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": is_ready, "checks": reported}))).into_response()
}

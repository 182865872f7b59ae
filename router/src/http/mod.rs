//! The router's interface: HTTP/2 over mutual TLS for agents, a second listener for operators.
//!
//! Owns routes, the one place that turns errors into statuses, and the accept loop. Decides nothing.

pub mod admin;
pub mod agents;
mod doors;
mod handshakes;
pub mod observed;
mod paused;
pub mod problem;
pub mod registry;
pub mod server;

use std::sync::Arc;

use axum::middleware;

use crate::service::Core;

/// The routes that agents may use.
pub fn agent_routes(core: &Core) -> axum::Router {
    serve(core, agents::routes().merge(registry::routes()))
}

/// The routes that operators may use.
pub fn admin_routes(core: &Core) -> axum::Router {
    serve(core, admin::routes())
}

fn serve(core: &Core, routes: axum::Router<Arc<Core>>) -> axum::Router {
    let observed = middleware::from_fn_with_state(core.metrics.clone(), observed::observe);
    let unknown = problem::unknown_route;
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(observed)
        .with_state(Arc::new(core.clone()))
}

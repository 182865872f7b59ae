//! The router: append, then decide; deliver under agreements.
//!
//! Owns the log, control, ingest, state and delivery. All durable state is in the log: any router can serve any
//! agent. It must never import an agent.

pub mod audit;
pub mod channels;
pub mod config;
pub mod control;
pub mod declarations;
pub mod delivery;
mod expiry;
pub mod fanout;
#[cfg(test)]
mod fixtures;
pub mod grants;
pub mod http;
pub mod ingest;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod process;
pub mod registry;
mod service;
mod serving;
pub mod state;

pub use crate::service::{Core, CoreError, CoreParts, Routers};
pub use crate::serving::{Parts, Router, RouterError, Watched};

//! The consumer agent: from a router's stream to a replica that is always right.
//!
//! Owns receiving, position and sinks. The sink's own cursor is the truth about what was applied. It must never
//! import the router.

pub mod agent;
pub mod agents;
pub mod config;
#[cfg(test)]
mod fixtures;
pub mod metrics;
pub mod observe;
pub mod phase;
pub mod process;
pub mod receive;
pub mod reconcile;
pub mod sink;
pub mod status;

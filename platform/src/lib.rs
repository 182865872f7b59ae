//! What every process of `dit` needs: configuration, identity, telemetry, traces, metrics, health, retries, shutdown, the
//! HTTP/2 client, and append-only segment files.
//!
//! Owns no rule of the protocols. Routers and agents are built on it; it must not know either.

pub mod client;
pub mod clock;
pub mod closed;
pub mod config;
pub mod connection_reset;
#[cfg(feature = "simulation")]
pub mod host;
pub mod identity;
pub mod metrics;
pub mod observe;
pub mod open_files;
pub mod pki;
pub mod random;
pub mod retry;
pub mod segments;
pub mod shown;
pub mod shutdown;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod telemetry;
pub mod traces;
pub mod unreachable;

//! The router's face: HTTP/2 over mutual TLS for agents, a second listener for operators.
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

//! The producer agent: from a register's own files to acknowledged events.
//!
//! Owns the path source → images → outbox → router. The before image comes from its own images, never from a source
//! that may make it up. It must never import the router.

pub mod agent;
pub mod config;
pub mod endpoint;
pub mod folder;
pub mod image;
mod intake;
pub mod metrics;
pub mod observe;
pub mod outbox;
pub mod process;
pub mod send;
pub mod source;
pub mod start;
pub mod take;

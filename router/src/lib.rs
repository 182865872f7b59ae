//! The router: append, then decide; deliver under agreements.
//!
//! Owns the log, control, ingest, state and delivery. All durable state is in the log: any router can serve any
//! agent. It must never import an agent.

pub mod control;
pub mod log;
pub mod registry;

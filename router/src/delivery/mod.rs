//! Delivery: one stream for one agreement, from a place, under the gate.
//!
//! Owns the path from a partition's chunks to a connection's bytes. It takes only `Permitted` outcomes,
//! and checks the agreement right before it hands bytes over.

pub mod admissions;
pub mod body;
pub mod encode;
pub mod error;
pub mod gate;
pub mod own_state;
mod parked;
pub mod reconcile;
pub mod service;
pub mod session;
pub mod shadow;
pub mod start;
mod stop;

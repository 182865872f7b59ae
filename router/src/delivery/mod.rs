//! Delivery: one stream for one agreement, from a place, under the gate.
//!
//! Owns what happens between a partition's chunks and a connection's bytes. It takes only `Permitted` outcomes,
//! and looks at the agreement right before it hands bytes over.

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

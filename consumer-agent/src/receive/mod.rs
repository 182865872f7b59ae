//! Receiving: one agreement's stream, from wherever the sink stands.
//!
//! Owns the protocol with the router. The machine decides what a delivery means; the receiver brings it.

pub mod machine;
pub mod receiver;
pub mod reconciler;
pub mod recovery;
mod repair;
pub mod request;

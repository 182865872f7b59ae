//! Receiving: one agreement's stream, from the sink's position on.
//!
//! Owns the protocol with the router. The receiver reads deliveries; the machine decides what they mean.

pub mod machine;
pub mod receiver;
pub mod reconciler;
pub mod recovery;
mod repair;
pub mod request;
mod settling;

//! Sends the outbox's entries to the router, until the table says that they count.
//!
//! Owns the protocol with the router. The machine decides; the sender does.

mod backlog;
pub mod machine;
pub mod sender;

//! The audit chain: who was admitted to what, up to where, and when each change of an agreement took effect here.
//!
//! Owns entries, their chain by hash, and the chain's head in control. One entry for each stream's beginning and end
//! and for each change of an agreement; never one for each event: what was delivered is a function of the log, the
//! agreements' history and the positions (promise 8). Never holds a key or a value.

pub mod chain;
pub mod service;

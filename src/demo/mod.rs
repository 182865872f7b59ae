//! The demo: a network in one process, a register's versions played through it, and the replicas verified.
//!
//! Owns no rule: it stands on the same entries as the binaries. What verifies shares no code with what delivers.

pub mod fault;
pub mod generate;
pub mod layout;
pub mod network;
pub mod register;
mod story;
pub mod verify;

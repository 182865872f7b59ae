//! Leases: whether this router may hand over data right now, where several serve one log.
//!
//! Owns the beats, what they prove (docs/protocol.md, 6), and which of the routers that beat holds which shard of the state.
//! A lease is renewed by a beat that was appended and read back, never by a read.

pub mod board;
pub mod service;

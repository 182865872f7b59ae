//! Ingest: append, then decide.
//!
//! Owns the path of a batch from a producer's request to the answer: the router judges it event by event, appends it
//! with the sequence headers, and answers with the table once it has read its own append back.

pub mod batch;
pub mod codecs;
pub mod error;
mod followed;
mod precedence;
pub mod service;
mod turns;

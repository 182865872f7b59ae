//! Ingest: append, then decide.
//!
//! Owns the way of a batch from a producer's request to the answer: judged record by record, appended with the
//! sequence headers, answered with the table once the router has read its own append back.

pub mod batch;
pub mod codecs;
pub mod error;
mod followed;
pub mod service;

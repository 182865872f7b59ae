//! The state: each key's present image in a compacted topic, written by a fenced materialiser, read by
//! bootstraps.
//!
//! Owns the state topic's records. It must never read a key's image from anywhere but the log's counted events.

pub mod bootstrap;
pub mod materialise;
mod records;
pub mod shards;
pub mod tenure;

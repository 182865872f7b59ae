//! The state: each key's present image, in a topic of blocks that a fenced materialiser writes and cleans, read by
//! bootstraps.
//!
//! Owns the state topic's records. It must never read a key's image from anywhere but the log's counted events.

mod block;
pub mod bootstrap;
mod contents;
#[cfg(test)]
mod fixtures;
mod group;
mod links;
pub mod materialise;
mod records;
mod scan;
pub mod shards;
pub mod tenure;

use std::time::Duration;

/// The bound of a bootstrap: what the state needed so long ago is not deleted.
pub const BOOTSTRAP_BOUND: Duration = Duration::from_hours(24);

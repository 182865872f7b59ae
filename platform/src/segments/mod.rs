//! Append-only checksummed segment files over a narrow disk trait, for the embedded log, the outbox and sinks.
//!
//! Owns framing, recovery, rolling and dropping of whole segments; not a frame's meaning. A frame's position is its
//! number since the log began; an emptied log never restarts at 0.

pub mod checked_file;
pub mod disk;
mod error;
mod frame;
mod index;
pub mod memory_disk;
mod reader;
mod segment;
mod store;

pub use error::SegmentError;
pub use frame::Frames;
pub use store::{Options, PendingSync, Recovery, SegmentStore, Summary};

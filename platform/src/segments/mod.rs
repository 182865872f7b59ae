//! Append-only checksummed segment files over a narrow disk trait: embedded log, outbox and sinks stand on them.
//!
//! Owns framing, recovery after a crash, rolling, dropping of whole segments, and rewriting of sealed ones. What a frame means is its
//! user's. A frame's position is its number since the log began; an emptied log never restarts at 0.

pub mod checked_file;
pub mod disk;
mod error;
mod frame;
mod index;
pub mod memory_disk;
mod reader;
mod rewrite;
mod segment;
mod store;

pub use error::SegmentError;
pub use frame::Frames;
pub use rewrite::{Rewrite, Rewritten, Sealed};
pub use store::{Options, PendingSync, Recovery, SegmentStore, Summary};

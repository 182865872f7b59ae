//! Append-only checksummed segment files over a narrow disk trait: embedded log, outbox and sinks stand on them.
//!
//! Owns framing, recovery after a crash, rolling, and dropping of whole segments. What a frame means is its
//! user's. A frame's position is its number since the log began; an emptied log never restarts at 0.

pub mod checked_file;
pub mod disk;
mod frame;
pub mod memory_disk;
mod segment;
mod store;

pub use segment::SegmentError;
pub use store::{Options, Recovery, SegmentStore, Summary};

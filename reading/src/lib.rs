//! Reads a channel's log under the counting rule: the changes that count, in order, from a place on.
//!
//! Owns the fold, the one shared reader of each partition, and its followers. It knows the log and the schemas, and
//! must never know scopes, agreements or streams.

mod behind;
mod checkpoints;
pub mod chunk;
pub mod codecs;
pub mod error;
pub mod feed;
pub mod fold;
pub mod follower;
pub mod located;
mod pace;
mod ring;
pub mod source;
pub mod tail;

#[cfg(test)]
mod tests;

//! Reading a channel's log under the counting rule: what counts, in order, from a place on.
//!
//! Owns the fold, the one reader of each partition that all share, and who follows it. It knows the log and the schemas,
//! and must never know scopes, agreements or streams.

pub mod chunk;
pub mod codecs;
pub mod error;
pub mod feed;
pub mod fold;
pub mod follower;
pub mod located;
pub mod source;
pub mod tail;

#[cfg(test)]
mod tests;

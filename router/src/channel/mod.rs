//! A channel at work: its topics, and one reader for each partition that feeds everybody.
//!
//! Owns reading under the counting rule, and judging what was read once for all who listen. Ingest, state and delivery stand
//! on it; it knows scopes, and nothing of agreements or streams.

pub mod audience;
pub mod feed;
pub mod fold;
pub mod follower;
pub mod judged;
pub mod listener;
pub mod reader;
pub mod tail;

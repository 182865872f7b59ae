//! A channel at work: its topics, and one reader for each partition that feeds everybody.
//!
//! Owns reading under the counting rule. Ingest, state and delivery stand on it; it knows no agreement.

pub mod feed;
pub mod fold;
pub mod follower;
pub mod reader;

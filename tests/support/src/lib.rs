//! Parts of tests that cross processes: real data, a network of real processes, a router in this process.
//!
//! Owns finding and starting; it waits for conditions and never for time. It knows one rule of the protocols, in a
//! second version that judges the first: which records count.

pub mod attacker;
pub mod balancer;
pub mod counting;
pub mod network;
pub mod publisher;
pub mod real_data;
pub mod routers;
pub mod site;
pub mod watcher;

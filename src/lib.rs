//! The `dit` command: one-machine demo and the operator's tool.
//!
//! Owns the command line, and the network in one process that the demo plays on. It calls the same library
//! entries as the binaries of router and agents.

pub mod audit;
pub mod check;
pub mod cli;
pub mod demo;
pub mod explain;
pub mod first;
pub mod parked;
pub mod scope;
pub mod status;
pub mod tools;

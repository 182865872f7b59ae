//! Machines of a simulation, and the order in which their tasks run.
//!
//! Owns the hosts of a seeded run; their history comes from the seed alone. It must never be compiled into a process
//! that serves.

pub mod node;
pub mod random;
pub mod schedule;

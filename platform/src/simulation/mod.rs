//! Machines of a simulation, and the order in which their tasks go on.
//!
//! Owns the hosts that a seeded run has; what they hold comes from the seed alone. It must never be compiled into a
//! process that serves.

pub mod node;
pub mod random;
pub mod schedule;

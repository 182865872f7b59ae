//! What tests that cross processes need: real data, and a network of real processes.
//!
//! Owns finding and starting; it waits for conditions and never for time. It knows no rule of the protocols.

pub mod real_data;
pub mod site;

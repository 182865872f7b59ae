//! Taking a file: what it would do to the register, whether that is allowed, and what becomes of it.
//!
//! Pure over rows and images. It emits nothing: the agent does, after it has asked the guard.

mod ahead;
pub mod changes;
pub mod counts;
mod fingerprint;
pub mod guard;
mod part;
pub mod report;
pub mod spool;
pub mod survey;

//! The heart of `dit`: what an agreement lets through.
//!
//! Owns the compilation of an agreement version against a schema version into a [`scope::Scope`], and the
//! decision over an event's two images. Pure and synchronous: no I/O, no clock, no tokio. Whatever leaves the
//! router passes through a [`permit::Permitted`], whose only constructor is the decision made here.

pub mod compile;
pub mod denial;
pub mod derive;
pub mod explain;
pub mod index;
pub mod lint;
pub mod model;
pub mod permit;
pub mod predicate;
pub mod preview;
pub mod projection;
pub mod scope;
pub mod secret;
mod sharded_map;
pub mod transform;

//! Fuzz targets of a provider's sources.
//!
//! Owns only the module that the fuzzers and the corpus' replay share.

pub mod targets;

//! Fuzz targets of a provider's sources.
//!
//! Owns nothing but the module that the fuzzers and the corpus' replay share.

pub mod targets;

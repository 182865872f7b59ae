//! Avro as the contract needs it: schemas that were checked, datums that can be walked, container blocks.
//!
//! apache-avro parses schemas and reads values. This room adds what it lacks: a walk over bytes without values,
//! container framing of bytes, strictness where it is lenient, and derived schemas.

pub mod access;
pub mod bare;
pub mod binary;
pub mod compatibility;
pub mod container;
mod fields;
pub mod json;
pub mod layout;
pub mod located;
pub mod names;
pub mod resolution;
pub mod resolver;
pub mod schema;
pub mod text;
mod texts;

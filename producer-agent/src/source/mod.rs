//! Sources: a registry's data, as rows of its schema.
//!
//! Owns rows and their cells, whatever their source, and the mapping of columns to fields. It knows no image and no
//! router.

pub mod cells;
pub mod file;
pub mod format;
pub mod http;
pub mod location;
mod objects;
pub mod port;
pub mod reader;
pub mod row;
pub mod values;

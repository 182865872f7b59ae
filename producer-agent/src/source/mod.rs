//! Sources: what a registry has, as rows of its schema.
//!
//! Owns reading of files, mapping of columns, and the comparison of a whole file with the images. It knows no
//! router.

pub mod cells;
pub mod changes;
pub mod compare;
mod delimited;
pub mod drop_folder;
pub mod format;
pub mod items;
mod objects;
pub mod place;
pub mod propose;
mod sniff;
pub mod table;
mod text;
mod trailer;
pub mod values;

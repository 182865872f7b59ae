//! Files as a source: which files of a folder are whole, what they look like, and their rows.
//!
//! Owns the reading of files and the folder that they are dropped into. It knows no image and no router.

mod delimited;
pub mod drop_folder;
pub mod propose;
mod sniff;
pub mod source;
pub mod table;
mod text;
mod trailer;

//! The edges of what people do: nothing to look at, one bad thing among good ones, and who did what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

#[path = "../daily_site/mod.rs"]
mod daily_site;
mod nothing;
mod one_bad;
mod who;

use std::path::Path;

/// Runs `dit` in a folder; its exit code and its output.
fn typed(dir: &Path, words: &[&str]) -> (Option<i32>, String) {
    support::site::typed(env!("CARGO_BIN_EXE_dit"), dir, words).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

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
use std::process::Command;

/// What `dit` says when it is typed in a folder, and its exit code.
fn typed(dir: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dit")).args(words).current_dir(dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

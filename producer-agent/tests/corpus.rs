//! Everything that the fuzzers of the sources have kept, replayed on a stable compiler: `producer-agent/fuzz/corpus`.
//!
//! `just fuzz-sources` runs the fuzzers themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test says what it expects by failing; the targets are public to the fuzzers' own package"
)]

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = corpus.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 10, "{} files in {}", files.len(), corpus.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&bytes));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}

#[test]
fn delimited_text_is_what_another_parser_reads_or_refused() {
    replay("delimited", targets::delimited);
}

#[test]
fn a_cell_is_one_value_or_none() {
    replay("cells", targets::cells);
}

#[test]
fn a_change_has_a_key_or_its_row_is_parked() {
    replay("changes", targets::changes);
}

#[test]
fn an_item_is_read_or_refused_by_itself() {
    replay("items", targets::items);
}

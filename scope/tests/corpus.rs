//! Replays all that the fuzzers have kept (`scope/fuzz/corpus`) on a stable compiler.
//!
//! `just fuzz` runs the fuzzers themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
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
fn the_plan_runner_decides_what_the_model_does() {
    replay("plan", targets::plan);
}

#[test]
fn a_predicate_means_one_thing() {
    replay("predicate", targets::predicate);
}

#[test]
fn frames_are_read_or_refused() {
    replay("framing", targets::framing);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/framing");
    let has_changes = |file: &Path| targets::changes_of(&std::fs::read(file).unwrap()) > 0;
    let blocks =
        corpus.read_dir().unwrap().filter(|entry| has_changes(&entry.as_ref().unwrap().path())).count();
    assert!(blocks >= 3, "{blocks} of the files are blocks: there is nothing to try");
}

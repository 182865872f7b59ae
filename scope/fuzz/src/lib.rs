//! The fuzzed code without a fuzzer, so that a stable compiler can replay the corpus.

pub mod targets;

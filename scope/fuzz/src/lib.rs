//! What is fuzzed, without a fuzzer: the corpus is replayed on a stable compiler, too.

pub mod targets;

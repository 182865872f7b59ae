//! `cargo fuzz run cells`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| source_fuzz::targets::cells(bytes));

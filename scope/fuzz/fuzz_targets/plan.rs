//! The fuzzer's entry to `targets::plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scope_fuzz::targets::plan(data));

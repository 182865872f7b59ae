//! The fuzzer's entry to `targets::predicate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scope_fuzz::targets::predicate(data));

//! The fuzzer's entry to `targets::framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scope_fuzz::targets::framing(data));

//! See `flotilla::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla::fuzz::config(bytes));

//! See `flotilla::fuzz::filter_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla::fuzz::filter_json(bytes));

//! See `flotilla_node::fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_node::fuzz::snapshot(bytes));

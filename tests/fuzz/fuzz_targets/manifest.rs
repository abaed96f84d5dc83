//! See `flotilla_node::fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_node::fuzz::manifest(bytes));

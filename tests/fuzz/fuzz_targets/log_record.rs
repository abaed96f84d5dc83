//! See `flotilla_node::fuzz::log_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_node::fuzz::log_record(bytes));

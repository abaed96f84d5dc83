//! See `flotilla_node::fuzz::machine_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_node::fuzz::machine_state(bytes));

//! See `flotilla_proto::fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_proto::fuzz::wire(bytes));

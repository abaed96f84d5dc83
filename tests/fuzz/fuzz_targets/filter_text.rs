//! See `flotilla_proto::fuzz::filter_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_proto::fuzz::filter_text(bytes));

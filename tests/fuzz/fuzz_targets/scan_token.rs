//! See `flotilla_router::fuzz::scan_token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla_router::fuzz::scan_token(bytes));

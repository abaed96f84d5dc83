//! See `flotilla::fuzz::import_csv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flotilla::fuzz::import_csv(bytes));

//! See `flotilla::fuzz::import_parquet`. The reader of Parquet files panics at some that are damaged, and the import says so of
//! the file: only a panic that nobody catches ends the run.
#![no_main]

static QUIET: std::sync::Once = std::sync::Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    flotilla::fuzz::import_parquet(bytes)
});

//! Tests of the real binary as a real process: it is started on a free port of loopback over a temporary folder, spoken to
//! through its public port only, killed, drained and started again. See `flotilla_tests` for the harness.
//!
//! `FLOTILLA_TEST_SEED` replays a run's random choices; `FLOTILLA_TEST_KILLS` makes the crash tests longer or shorter and
//! `FLOTILLA_TEST_STORM` the storm, `FLOTILLA_TEST_GROWTH=100000x768` how much is written
//! while memory is counted; `FLOTILLA_TEST_LOG` is the members' `RUST_LOG`, and `FLOTILLA_TEST_LOGS` a folder for the
//! logs of those that fail.

// A test's helper may give up as a test does; clippy exempts only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod cluster;
mod commands;
mod crowd;
mod flood;
mod history;
mod hostile;
mod kill9;
mod kinds;
mod members;
mod operator;
mod records;
mod replace;
mod restart;
mod room;
mod search;
mod security;
mod startup;
mod traces;

use std::path::Path;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flotilla"))
}

/// A folder that is removed with its owner.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Settings under which a few hundred records see seals, compactions and purges: written to `dir`, as an argument.
fn small_settings(dir: &Path) -> String {
    let file = dir.join("flotilla.yaml");
    let text = "storage:\n  seal_rows: 200\nlog:\n  lanes: 2\n  segment_bytes: 1048576\n";
    std::fs::write(&file, text).expect("writing the settings");
    file.to_str().expect("UTF-8").to_owned()
}

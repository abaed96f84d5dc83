//! The binary `flotilla`: parse, dispatch, tell what went wrong, exit.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser as _;
use flotilla::cli::Cli;
use flotilla::telemetry;
use tracing_subscriber::EnvFilter;

/// Requests allocate and free on other threads all the time, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(cli.log_level()));
    telemetry::log(filter);
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if nobody_reads(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has gone (`flotilla scan | head`), which is no failure.
fn nobody_reads(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

//! `flotilla bench`: the index alone, a running server, and the work of an index of files and their segments.

use clap::{Args, Subcommand};

pub mod engine;
pub mod load;
pub mod search;
mod segment;
pub mod segments;

/// Arguments of `flotilla bench`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla bench engine --vectors base.npy --queries query.npy --truth truth.npy --ef 16,32,64,128
  flotilla bench search --collection bench --queries query.npy --truth truth.npy --clients 4
  flotilla bench segments --rows 100000")]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Builds and searches the vector index alone, in this process; needs no server
    #[command(after_help = "Examples:
  flotilla bench engine --vectors base.npy --queries query.npy --truth truth.npy --ef 16,32,64,128
  taskset -c 1 flotilla bench engine --vectors base.npy --queries query.npy --truth truth.npy --threads 1")]
    Engine(Box<engine::EngineArgs>),
    /// Searches a running server, as its users do
    Search(Box<search::BenchSearchArgs>),
    /// Writes to, or reads from, a running server as fast as so many clients can
    Load(load::LoadArgs),
    /// Loads the segments of made-up files, and asks what an index of them is asked
    Segments(Box<segments::SegmentsArgs>),
}

impl BenchArgs {
    /// Measures and prints.
    pub fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Engine(args) => engine::run(*args),
            Action::Search(args) => args.run(),
            Action::Load(args) => args.run(),
            Action::Segments(args) => args.run(),
        }
    }
}

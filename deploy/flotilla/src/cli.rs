//! The command line as a whole: every command, and the way from one to its module.

use clap::{Parser, Subcommand};

use crate::{
    aggregate, bench, collections, config, ctl, demo, export, grow, import, keys, node, patch, plan, query,
    router, scan, search, tenants, up, verify,
};

/// A distributed vector and record database in one binary.
///
/// Without a command it runs `demo`.
#[derive(Parser, Debug)]
#[command(
    name = "flotilla",
    version,
    after_help = "Examples:
  flotilla                                      the demo: an inventory of machines, imported, searched, reopened
  flotilla up --data ./data                     the database, on 127.0.0.1:15002
  flotilla import --collection docs --records docs.jsonl --vectors docs.npy --key id --create
  flotilla search --collection docs --vector-file docs.npy --row 0 --with-payload
  flotilla count --collection docs --filter '{\"year\":{\"gte\":2020}}'

Every command has examples of its own: flotilla COMMAND --help. Logging: RUST_LOG=debug flotilla up ..."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Makes up an inventory, imports and searches it, restarts from disk and checks the answers
    Demo(demo::DemoArgs),
    /// Serves a data folder until Ctrl-C
    Up(up::UpArgs),
    /// Serves one node of a cluster until Ctrl-C
    Node(node::NodeArgs),
    /// Serves a node that only learns: more reads, no vote
    Replica(node::NodeArgs),
    /// Serves the API of a cluster: stateless, run several
    Router(router::RouterArgs),
    /// Shows and changes a cluster: its nodes, partitions and moves
    Ctl(ctl::CtlArgs),
    /// Writes files of records and vectors into a collection
    Import(Box<import::ImportArgs>),
    /// Writes the records of a collection into a file
    Export(export::ExportArgs),
    /// Changes fields of records that are there
    Patch(Box<patch::PatchArgs>),
    /// Finds the records nearest to a vector
    Search(Box<search::SearchArgs>),
    /// Finds the records that a filter holds for
    Query(query::QueryArgs),
    /// Prints records in the order of their keys
    Scan(scan::ScanArgs),
    /// Counts records
    Count(scan::CountArgs),
    /// Computes figures over records, and over groups of them
    Aggregate(Box<aggregate::AggregateArgs>),
    /// Lists, creates, describes and deletes collections
    Collections(collections::CollectionsArgs),
    /// Gives a collection more partitions, online
    Grow(grow::GrowArgs),
    /// Compares the replicas of each partition
    Verify(verify::VerifyArgs),
    /// Tells what it takes: memory, processors, disk and nodes for so many vectors and records
    Plan(plan::PlanArgs),
    /// Measures the index alone, or a running server
    Bench(bench::BenchArgs),
    /// Shows what tenants have, did and may
    Tenants(tenants::TenantsArgs),
    /// Makes, lists and revokes API keys
    Keys(keys::KeysArgs),
    /// Checks and shows the configuration
    Config(config::ConfigArgs),
}

impl Cli {
    /// What is logged where `RUST_LOG` does not say: a server tells what it does, a command only what is wrong.
    pub fn log_level(&self) -> &'static str {
        use Command::{Node, Replica, Router, Up};
        if matches!(self.command, Some(Up(_) | Node(_) | Replica(_) | Router(_))) {
            "info,openraft=error"
        } else {
            "warn,openraft=error"
        }
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command.unwrap_or_else(|| Command::Demo(demo::DemoArgs::default())) {
            Command::Demo(args) => args.run(),
            Command::Up(args) => args.run(),
            Command::Node(args) => args.run(false),
            Command::Replica(args) => args.run(true),
            Command::Router(args) => args.run(),
            Command::Ctl(args) => args.run(),
            Command::Import(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Patch(args) => args.run(),
            Command::Search(args) => args.run(),
            Command::Query(args) => args.run(),
            Command::Scan(args) => args.run(),
            Command::Count(args) => args.run(),
            Command::Aggregate(args) => args.run(),
            Command::Collections(args) => args.run(),
            Command::Grow(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Tenants(args) => args.run(),
            Command::Keys(args) => args.run(),
            Command::Config(args) => args.run(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Where a data command goes, and how it runs there.

use anyhow::Context as _;
use clap::Args;
use flotilla_client::Client;

/// The server that a command talks to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Address of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15002")]
    pub to: String,
}

impl Target {
    /// A client of the server; fails if nobody answers there.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.to).await.context("is `flotilla up` running? see --to")
    }
}

/// Runs a command on a runtime of so many worker threads; 0: one per core.
pub fn run<T>(threads: usize, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("starting the runtime")?.block_on(command)
}

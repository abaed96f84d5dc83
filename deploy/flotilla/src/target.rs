//! Where a data command goes, what it shows there, and how it runs.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use flotilla_client::{Client, Credentials, Hosts, ReadPreference, Secret};

/// The variable that holds an API key itself.
const API_KEY: &str = "FLOTILLA_API_KEY";

/// What a command shows the server.
#[derive(Args, Clone, Debug, Default)]
pub struct Access {
    /// File that holds an API key or a token; the variable FLOTILLA_API_KEY holds one itself
    #[arg(long, value_name = "FILE", global = true)]
    pub api_key_file: Option<PathBuf>,
    /// Authorities (PEM) by which a server at https:// is believed
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// Own certificate (PEM), for a server that asks for one
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,
}

impl Access {
    fn credentials(&self) -> anyhow::Result<Credentials> {
        let api_key = match &self.api_key_file {
            Some(file) => Some(Secret::read(file).context("--api-key-file")?),
            None => std::env::var(API_KEY).ok().filter(|key| !key.is_empty()).map(Secret::new),
        };
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => anyhow::bail!("--tls-cert and --tls-key go together: one of them is missing"),
        };
        Ok(Credentials { api_key, ca_file: self.tls_ca.clone(), own })
    }

    /// A client of the server at this address; fails if nobody answers there.
    pub async fn client(&self, url: &str) -> anyhow::Result<Client> {
        let hosts = Hosts { master: vec![url.to_owned()], replicas: Vec::new() };
        let client = Client::connect_with(&hosts, ReadPreference::Master, &self.credentials()?).await;
        client.context("is `flotilla up` running? see --to")
    }
}

/// The server that a command talks to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Address of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15002")]
    pub to: String,
    /// What it is shown.
    #[command(flatten)]
    pub access: Access,
}

impl Target {
    /// A client of the server; fails if nobody answers there.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.access.client(&self.to).await
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

//! `flotilla up`: the whole database in one process, until a signal ends it; or the member of a cluster that its configuration
//! describes, as `flotilla node`, `replica` and `router` start it.
//!
//! Standard output carries exactly one line, once requests are answered:
//! `flotilla ready on http://127.0.0.1:15002, data in DIR`. Everything else is log, on standard error. The first SIGINT or
//! SIGTERM drains and flushes; exit code 0. Whatever keeps it from starting is one line and exit code 1.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use flotilla_node::storage::Fault;

use crate::config::live::Watched;
use crate::config::member;
use crate::embedded::{Embedded, Options};
use crate::node::NodeArgs;
use crate::router::RouterArgs;
use crate::{security, target};

/// Arguments of `flotilla up`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla up --data ./data                            everything in ./data, on 127.0.0.1:15002
  flotilla up --data ./data --port 0                   any free port; the ready line tells which
  flotilla up --config flotilla.yaml                   see `flotilla config show` for every key; a member of a cluster if
                                                       cluster.enabled or replication.enabled says so
  FLOTILLA_LOG_LANES=8 flotilla up --data ./data       the environment goes before the file, flags before both

Stops on Ctrl-C or SIGTERM: answers what it has begun, flushes, exits with 0.")]
pub struct UpArgs {
    /// Folder that holds everything; created if it is not there
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// YAML file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of gRPC and HTTP [default: 15002]; 0 takes any free one
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Listen beyond this machine without credentials and TLS: anybody who reaches the port may do anything
    #[arg(long)]
    insecure_bind: bool,
}

impl UpArgs {
    /// Serves until a signal.
    pub fn run(self) -> anyhow::Result<()> {
        let watched = Watched::load(self.config.clone(), self.flags())?;
        match watched.member()?.kind {
            member::Kind::Alone => {}
            kind @ (member::Kind::Shard | member::Kind::Replica) => {
                let listen = (self.port, self.bind);
                let args = NodeArgs::configured(self.data, self.config, listen, self.insecure_bind);
                return args.run(kind == member::Kind::Replica);
            }
            member::Kind::Router => {
                let listen = (self.port, self.bind);
                return RouterArgs::configured(self.config, listen, self.insecure_bind).run();
            }
        }
        let config = watched.config();
        security::refuse_open_bind(config.server.bind, config.security.guards_public(), self.insecure_bind)?;
        security::refuse_nameless(&config)?;
        let Some(folder) = config.storage.data_dir.clone() else {
            anyhow::bail!(
                "no data folder: name one with --data DIR, or as storage.data_dir in --config FILE"
            );
        };
        target::run(config.performance.threads, serve(watched, folder))
    }

    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let folder = self.data.as_ref().map(|data| data.display().to_string());
        let flags = [
            ("storage.data_dir", "--data", folder),
            ("server.port", "--port", self.port.map(|port| port.to_string())),
            ("server.bind", "--bind", self.bind.clone()),
        ];
        flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?))).collect()
    }
}

async fn serve(watched: Watched, folder: PathBuf) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let config = watched.config();
    let listen = SocketAddr::new(config.server.bind, config.server.port);
    let options = Options::from_config(&config, &folder)?;
    let scheme = security::scheme(options.security.as_ref().and_then(|security| security.door.as_ref()));
    let running = start(options, listen, &folder).await?;
    let address = running.address().unwrap_or(listen);
    let following = tokio::spawn(watched.follow(running.limiter()));
    announce(&format!("{scheme}://{address}"), &folder)?;
    stop.await;
    tracing::info!("stopping");
    following.abort();
    running.stop().await.context("stopping")
}

/// Starts, and says in plain words what is in the way.
pub async fn start(options: Options, listen: SocketAddr, folder: &Path) -> anyhow::Result<Embedded> {
    Embedded::start(options).await.map_err(|error| plain(error, listen, folder))
}

fn announce(url: &str, folder: &Path) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "flotilla ready on {url}, data in {}", folder.display())?;
    out.flush()
}

/// Resolves at the first SIGINT or SIGTERM after this call.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

pub(crate) fn plain(error: anyhow::Error, listen: SocketAddr, folder: &Path) -> anyhow::Error {
    let said = match (cause::<std::io::Error>(&error), cause::<Fault>(&error)) {
        (Some(io), _) => listening(io.kind(), listen),
        (None, Some(fault)) => opening(fault, folder),
        (None, None) => None,
    };
    said.map_or(error, anyhow::Error::msg)
}

fn cause<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

fn listening(kind: ErrorKind, listen: SocketAddr) -> Option<String> {
    let (port, ip) = (listen.port(), listen.ip());
    match kind {
        ErrorKind::AddrInUse => Some(format!("port {port} is in use on {ip}; choose another with --port")),
        ErrorKind::AddrNotAvailable => Some(format!("{ip} is not an address of this machine; see --bind")),
        ErrorKind::PermissionDenied => {
            Some(format!("port {port} needs more rights; choose one from 1024 on"))
        }
        _ => None,
    }
}

fn opening(fault: &Fault, folder: &Path) -> Option<String> {
    let at = folder.display();
    match fault {
        Fault::Newer { found, known, .. } => Some(format!(
            "the data folder {at} was written by a newer version: its format is {found}, and {known} is the newest \
             that this program reads"
        )),
        Fault::Io { reason, .. } => {
            let reason = reason.strip_prefix(&format!("{at}: ")).unwrap_or(reason);
            Some(format!("the data folder {at} cannot be used: {reason}"))
        }
        Fault::Damaged { .. } | Fault::Cancelled => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    fn told(error: anyhow::Error) -> String {
        plain(error, SocketAddr::from(([127, 0, 0, 1], 15_002)), Path::new("/d")).to_string()
    }

    #[test]
    fn what_is_in_the_way_is_said_in_one_line() {
        let in_use = anyhow::Error::from(Error::from(ErrorKind::AddrInUse)).context("binding");
        assert_eq!(told(in_use), "port 15002 is in use on 127.0.0.1; choose another with --port");
        let io = |reason: &str| Fault::Io { file: "/d".into(), reason: reason.to_owned(), is_full: false };
        assert_eq!(
            told(io("/d: the folder is in use by another process").into()),
            "the data folder /d cannot be used: the folder is in use by another process"
        );
        assert!(told(io("/d/LOCK: Permission denied").into()).ends_with("/d/LOCK: Permission denied"));
        let newer = Fault::Newer { file: "/d/NODE".into(), found: 9, known: 1 };
        assert!(told(newer.into()).contains("a newer version: its format is 9, and 1 is the newest"));
        assert_eq!(told(anyhow::anyhow!("something else")), "something else");
    }

    #[test]
    fn a_bind_beyond_this_machine_needs_consent() {
        let args = UpArgs {
            data: Some("/nowhere".into()),
            config: None,
            port: None,
            bind: Some("0.0.0.0".into()),
            insecure_bind: false,
        };
        let error = args.run().unwrap_err().to_string();
        assert!(error.contains("--insecure-bind"), "{error}");
    }
}

//! `flotilla node` and `flotilla replica`: one member of a cluster, until a signal ends it.
//!
//! Standard output carries exactly one line, once it is a member and its replicas are open:
//! `flotilla node 3 ready on http://127.0.0.1:15002, peers on 127.0.0.1:15003, data in DIR`. A SIGINT or SIGTERM drains: health
//! says `NOT_SERVING`, leaderships go to other nodes, calls under way are finished; exit code 0.

mod port;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use flotilla_node::server::{ClusterOptions, Node, Options};
use flotilla_port::{Doors, Kind};
use flotilla_security::tls::Role;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::live::Watched;
use crate::security::{self, Security};
use crate::telemetry::Telemetry;
use crate::{embedded, target, up};

/// How long a node may take to become a member and to open its replicas.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// How long leaderships may take to find another node.
const STEP_ASIDE_MAX: Duration = Duration::from_secs(10);

/// Arguments of `flotilla node` and `flotilla replica`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla node --data ./n1                                                  begins a cluster, or is its first node again
  flotilla node --data ./n2 --port 0 --peer-port 0 --seed 127.0.0.1:15003    joins it
  flotilla node --data ./n3 --seed db-0.db:15003 --seed db-1.db:15003 --zone eu-1a --advertise db-2.db

A folder that `flotilla up` used can begin a cluster. Stops on Ctrl-C or SIGTERM: hands its leaderships over first.")]
pub struct NodeArgs {
    /// Folder that holds everything; created if it is not there
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// YAML file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the data API [default: 15002]; 0 takes any free one
    #[arg(long)]
    port: Option<u16>,
    /// Port for other nodes; 0 takes any free one
    #[arg(long, default_value_t = 15_003)]
    peer_port: u16,
    /// Member to join through, host:port of its peer port; may be said several times. Without one the node begins a cluster
    #[arg(long, value_name = "HOST:PORT")]
    seed: Vec<String>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Name or address by which others reach this node [default: the address it listens on]
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Zone of this node: replicas of a partition are spread over zones
    #[arg(long, default_value = "")]
    zone: String,
    /// Its share of the replicas
    #[arg(long, default_value_t = 1.0)]
    weight: f64,
    /// Its number among like nodes, or the name of its pod (`db-shard-2`)
    #[arg(long, env = "SHARD_ID", value_name = "NUMBER")]
    shard_id: Option<String>,
    /// Listen beyond this machine without credentials and TLS: anybody who reaches the port may do anything
    #[arg(long)]
    insecure_bind: bool,
}

impl NodeArgs {
    /// Serves as a shard node, or as one that only learns, until a signal.
    pub fn run(self, is_replica: bool) -> anyhow::Result<()> {
        let watched = Watched::load(self.config.clone(), self.flags())?;
        let config = watched.config();
        security::refuse_open_bind(config.server.bind, config.security.guards_members(), self.insecure_bind)?;
        let Some(folder) = config.storage.data_dir.clone() else {
            anyhow::bail!(
                "no data folder: name one with --data DIR, or as storage.data_dir in --config FILE"
            );
        };
        if is_replica && self.seed.is_empty() && !folder.join("NODE").exists() {
            anyhow::bail!("a replica joins a cluster: name a member with --seed HOST:PORT");
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            anyhow::bail!("--weight: must be above 0, got {}", self.weight);
        }
        target::run(config.performance.threads, serve(watched, folder, self, is_replica))
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

    fn ordinal(&self) -> anyhow::Result<Option<u32>> {
        let Some(text) = self.shard_id.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let digits = text.rsplit('-').next().unwrap_or(text);
        let number = digits.parse();
        number.map(Some).with_context(|| format!("--shard-id: `{text}` does not end in a number"))
    }
}

async fn listen(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(at).await;
    bound.map_err(|why| up::plain(why.into(), at, Path::new("")))
}

async fn serve(watched: Watched, folder: PathBuf, args: NodeArgs, is_replica: bool) -> anyhow::Result<()> {
    let stop = up::stop_signal()?;
    let config = watched.config();
    let security = Security::open(&config.security, Some(Role::Node))?;
    let name = if is_replica { "flotilla-replica" } else { "flotilla-node" };
    let telemetry = Telemetry::open(&config.telemetry, name)?;
    let bind = config.server.bind;
    let data = listen(SocketAddr::new(bind, config.server.port)).await?;
    let peers = listen(SocketAddr::new(bind, args.peer_port)).await?;
    let (data_at, peers_at) = (data.local_addr()?, peers.local_addr()?);
    let host = args.advertise.clone().unwrap_or_else(|| bind.to_string());
    let reached =
        |port: u16| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut options = Options::new(folder.clone());
    embedded::configure(&mut options, &config);
    options.raft.entries_kept = config.raft.entries_kept;
    options.address = reached(data_at.port());
    options.cluster = Some(ClusterOptions {
        peer_address: reached(peers_at.port()),
        seeds: args.seed.clone(),
        zone: args.zone.clone(),
        weight: args.weight,
        is_replica,
        ordinal: args.ordinal()?,
        join_within: READY_WITHIN,
        trust: security.trust.clone(),
    });
    tokio::pin!(stop);
    let node = tokio::select! {
        opened = Node::open(options) => {
            Arc::new(opened.map_err(|fault| up::plain(fault.into(), data_at, &folder))?)
        }
        () = &mut stop => return Ok(()),
    };
    let (closing, closed) = watch::channel(false);
    let told = |mut closed: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: then it is time too.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    let (data_door, peer_door) = security.member_doors.clone().unzip();
    let scheme = security::scheme(data_door.as_ref());
    let doors = Doors::new(config.server.bounds())?;
    let front_door = doors.door(Kind::ROUTERS).behind(data_door);
    let back_door = doors.door(Kind::PEERS).behind(peer_door);
    let routes = node.for_peers().into_axum_router();
    let until = told(closed.clone());
    let behind = tokio::spawn(async move { back_door.listen(peers, routes, until).await });
    let port = port::Port::new(&node, &doors, &security, &telemetry)?;
    let following = tokio::spawn(watched.follow(move |config| doors.set(config.server.bounds())));
    let front = tokio::spawn(port.clone().serve(front_door, data, node.clone(), told(closed)));

    let is_ready = tokio::select! {
        ready = node.ready(READY_WITHIN) => { ready?; true }
        () = &mut stop => false,
    };
    if is_ready {
        port.is_ready(true).await;
        let role = if is_replica { "replica" } else { "node" };
        let mut out = std::io::stdout().lock();
        let (id, at) = (node.id(), folder.display());
        writeln!(
            out,
            "flotilla {role} {id} ready on {scheme}://{data_at}, peers on {peers_at}, data in {at}"
        )?;
        out.flush()?;
        drop(out);
        stop.await;
    }
    tracing::info!("draining");
    following.abort();
    port.is_ready(false).await;
    node.step_aside(STEP_ASIDE_MAX).await;
    closing.send_replace(true);
    node.end_watches();
    front.await.context("the data port's service ended")?;
    behind.await.context("the peer port's service ended")?;
    node.stop().await;
    drop(security);
    telemetry.close().await;
    Ok(())
}

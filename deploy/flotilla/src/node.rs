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
use crate::config::member::{self, BEGINS_AFTER, Member};
use crate::security::{self, Security};
use crate::telemetry::Telemetry;
use crate::{embedded, target, up};

/// How long a node may take to become a member and to open its replicas.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// How long leaderships may take to find another node.
const STEP_ASIDE_MAX: Duration = Duration::from_secs(10);

/// How long a router may take to tell the map, and how long it is left alone if it did not.
const ROUTER_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const ROUTER_AGAIN_AFTER: Duration = Duration::from_millis(500);

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
    /// Port for other nodes [default: 15003]; 0 takes any free one
    #[arg(long)]
    peer_port: Option<u16>,
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
    /// Its share of the replicas [default: 1]
    #[arg(long)]
    weight: Option<f64>,
    /// Its number among like nodes, or the name of its pod (`db-shard-2`) [default: the variable SHARD_ID]
    #[arg(long, value_name = "NUMBER")]
    shard_id: Option<String>,
    /// Listen beyond this machine without credentials and TLS: anybody who reaches the port may do anything
    #[arg(long)]
    insecure_bind: bool,
}

impl NodeArgs {
    /// What `flotilla up` was told, for a member that its configuration describes.
    pub fn configured(
        data: Option<PathBuf>,
        config: Option<PathBuf>,
        listen: (Option<u16>, Option<String>),
        insecure_bind: bool,
    ) -> NodeArgs {
        NodeArgs {
            data,
            config,
            port: listen.0,
            peer_port: None,
            seed: Vec::new(),
            bind: listen.1,
            advertise: None,
            zone: String::new(),
            weight: None,
            shard_id: None,
            insecure_bind,
        }
    }

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
        let mut member = self.member(&watched, is_replica)?;
        let is_bound = folder.join("NODE").exists();
        if member.kind == member::Kind::Replica
            && member.seeds.is_empty()
            && member.router.is_none()
            && !is_bound
        {
            anyhow::bail!(
                "a replica joins a cluster: name a member with --seed HOST:PORT, or as replication.master_address"
            );
        }
        if is_bound {
            // The folder knows its cluster.
            member.router = None;
        }
        target::run(config.performance.threads, serve(watched, folder, member, self.zone))
    }

    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let folder = self.data.as_ref().map(|data| data.display().to_string());
        let flags = [
            ("storage.data_dir", "--data", folder),
            ("server.port", "--port", self.port.map(|port| port.to_string())),
            ("server.bind", "--bind", self.bind.clone()),
            ("cluster.shard_id", "--shard-id", self.shard_id.clone()),
        ];
        flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?))).collect()
    }

    /// What the configuration says, and the flags over it.
    fn member(&self, watched: &Watched, is_replica: bool) -> anyhow::Result<Member> {
        let mut member = watched.member()?;
        if member.kind == member::Kind::Router {
            anyhow::bail!("cluster.mode is router: start it by flotilla router, or flotilla up");
        }
        if is_replica {
            member.kind = member::Kind::Replica;
        }
        if let Some(port) = self.peer_port {
            member.peers.set_port(port);
        }
        member.is_first &= self.seed.is_empty() && !is_replica;
        member.seeds.splice(0..0, self.seed.iter().cloned());
        member.host = self.advertise.clone().or(member.host);
        member.weight = self.weight.unwrap_or(member.weight);
        if !(member.weight.is_finite() && member.weight > 0.0) {
            anyhow::bail!("--weight: must be above 0, got {}", member.weight);
        }
        Ok(member)
    }
}

/// Adds to the seeds whom the router knows. A new node that is to begin the cluster does not wait for it.
async fn ask_router(member: &mut Member) -> anyhow::Result<()> {
    let Some(router) = &member.router else { return Ok(()) };
    let url = if router.contains("://") { router.clone() } else { format!("http://{router}") };
    let until = tokio::time::Instant::now() + if member.is_first { BEGINS_AFTER } else { READY_WITHIN };
    loop {
        let asked =
            async { target::Access::default().client(&url).await?.describe().await.context("the map") };
        let why = match tokio::time::timeout(ROUTER_ANSWERS_WITHIN, asked).await {
            Ok(Ok((map, _))) => {
                let known = map.nodes.iter().map(|node| node.peer_address.clone());
                member.seeds.extend(known.filter(|address| !address.is_empty()));
                return Ok(());
            }
            Ok(Err(why)) => format!("{why:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if tokio::time::Instant::now() >= until {
            if member.is_first || !member.seeds.is_empty() {
                return Ok(());
            }
            anyhow::bail!("cluster.router_address: {url} tells no member: {why}");
        }
        tracing::info!(url, why, "asking the router for a member of the cluster");
        tokio::time::sleep(ROUTER_AGAIN_AFTER).await;
    }
}

async fn listen(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(at).await;
    bound.map_err(|why| up::plain(why.into(), at, Path::new("")))
}

async fn serve(watched: Watched, folder: PathBuf, mut member: Member, zone: String) -> anyhow::Result<()> {
    let stop = up::stop_signal()?;
    let config = watched.config();
    let is_replica = member.kind == member::Kind::Replica;
    let security = Security::open(&config.security, Some(Role::Node))?;
    let name = if is_replica { "flotilla-replica" } else { "flotilla-node" };
    let telemetry = Telemetry::open(&config.telemetry, name)?;
    let bind = config.server.bind;
    let data = listen(SocketAddr::new(bind, config.server.port)).await?;
    let peers = listen(member.peers).await?;
    let (data_at, peers_at) = (data.local_addr()?, peers.local_addr()?);
    let host = member.host.clone().unwrap_or_else(|| bind.to_string());
    let reached =
        |port: u16| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut options = Options::new(folder.clone());
    embedded::configure(&mut options, &config);
    options.raft.entries_kept = config.raft.entries_kept;
    options.address = reached(data_at.port());
    tokio::pin!(stop);
    tokio::select! {
        asked = ask_router(&mut member) => asked?,
        () = &mut stop => return Ok(()),
    }
    options.cluster = Some(ClusterOptions {
        peer_address: reached(peers_at.port()),
        seeds: member.seeds,
        zone,
        weight: member.weight,
        is_replica,
        ordinal: member.ordinal,
        join_within: READY_WITHIN,
        begins_after: member.is_first.then_some(BEGINS_AFTER),
        trust: security.trust.clone(),
    });
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

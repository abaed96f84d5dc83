//! One process of a cluster, through all its lives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use flotilla_proto::peer;
use flotilla_proto::peer::peer_client::PeerClient;
use tonic::transport::Endpoint;

use super::network::Network;
use super::ports;
use crate::process::{InFlight, Service, Signal, command};
use crate::proxy::Proxy;

/// A node that does not answer so soon counts as not answering.
const STATUS_WITHIN: Duration = Duration::from_secs(1);
/// Starts with other ports, when another process was faster.
const PORT_TRIES: usize = 4;
/// Sets `RUST_LOG` of all members.
const LOG_VARIABLE: &str = "FLOTILLA_TEST_LOG";

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `flotilla node`.
    Node,
    /// `flotilla replica`.
    Replica,
    /// `flotilla router`.
    Router,
}

impl Role {
    fn verb(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Replica => "replica",
            Role::Router => "router",
        }
    }
}

/// What all processes of a cluster are started with.
pub(super) struct Launch {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) network: Option<Network>,
    pub(super) has_links: bool,
    pub has_ordinals: bool,
}

/// The links through which others reach a node: proxies on an address of loopback that is the node's alone, at its own ports.
#[derive(Debug)]
pub struct Links {
    host: IpAddr,
    /// For routers.
    pub data: Proxy,
    /// For other nodes.
    pub peers: Proxy,
}

/// A process of a cluster: running, or between two lives.
pub struct Member {
    role: Role,
    place: usize,
    data: PathBuf,
    /// How it finds the others.
    others: Vec<String>,
    /// Known from its first start on.
    id: u64,
    host: IpAddr,
    port: u16,
    peer_port: u16,
    links: Option<Links>,
    service: Option<Service>,
    /// What its former lives logged.
    past: String,
}

impl Member {
    pub(super) fn new(role: Role, place: usize, data: PathBuf, others: Vec<String>) -> Member {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let past = String::new();
        let (links, service) = (None, None);
        Member { role, place, data, others, id: 0, host, port: 0, peer_port: 0, links, service, past }
    }

    /// What it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its node id: the same in all its lives.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        format!("{}-{}", self.role.verb(), self.place)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where it serves data, probes and metrics.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Where other nodes reach it.
    pub fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.peer_port)
    }

    /// Where others are told to reach it: its data port and its peer port.
    pub fn advertised(&self) -> (SocketAddr, SocketAddr) {
        let host = self.links.as_ref().map_or(self.host, |links| links.host);
        (SocketAddr::new(host, self.port), SocketAddr::new(host, self.peer_port))
    }

    /// The links to it, if it has any.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// The id of its process, if there is one.
    pub fn process(&self) -> Option<u32> {
        self.service.as_ref().map(Service::id)
    }

    /// Its address as `--to` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Whether there is a process.
    pub fn is_running(&self) -> bool {
        self.service.is_some()
    }

    /// What it logged, in all its lives.
    pub fn log(&self) -> String {
        let now = self.service.as_ref().map(Service::log).unwrap_or_default();
        format!("{}{now}", self.past)
    }

    /// Starts the process, without waiting: with ports of its own at first, then with the same ones.
    pub(super) fn spawn(&mut self, launch: &mut Launch) -> anyhow::Result<()> {
        ensure!(self.service.is_none(), "{} runs already", self.name());
        if let (Some(network), true) = (&mut launch.network, self.role != Role::Router) {
            self.host = network.host(self.place)?;
        }
        if self.port == 0 {
            let host = launch.network.as_ref().map_or(self.host, Network::gateway);
            self.port = ports::free(&[host])?;
            self.peer_port = ports::free(&[host])?;
        }
        if launch.has_links && self.role != Role::Router && self.links.is_none() {
            self.links = Some(self.link()?);
        }
        self.service = Some(Service::spawn(self.command(launch)?)?);
        Ok(())
    }

    /// Links to its ports, on an address that no other node has.
    fn link(&self) -> anyhow::Result<Links> {
        let host =
            IpAddr::V4(Ipv4Addr::new(127, 77, 0, u8::try_from(self.place + 1).context("too many nodes")?));
        let start = |port| {
            let (at, to) = (SocketAddr::new(host, port), SocketAddr::new(self.host, port));
            Proxy::start(at, to).with_context(|| format!("a link on {at}"))
        };
        Ok(Links { host, data: start(self.port)?, peers: start(self.peer_port)? })
    }

    fn command(&self, launch: &Launch) -> anyhow::Result<Command> {
        let mut args = vec![self.role.verb().to_owned(), "--port".to_owned(), self.port.to_string()];
        if self.role != Role::Router {
            let data = self.data.to_str().context("the folder's name is not UTF-8")?;
            let config = launch.config.to_str().context("the file's name is not UTF-8")?;
            let peer_port = self.peer_port.to_string();
            let more = ["--peer-port", &peer_port, "--data", data, "--config", config];
            args.extend(more.map(str::to_owned));
            if launch.network.is_some() {
                args.extend(["--bind".to_owned(), self.host.to_string(), "--insecure-bind".to_owned()]);
            }
            if launch.has_ordinals && self.role == Role::Node {
                args.extend(["--shard-id".to_owned(), format!("flotilla-shard-{}", self.place)]);
            }
            if let Some(links) = &self.links {
                args.extend(["--advertise".to_owned(), links.host.to_string()]);
            }
        }
        args.extend(self.others.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = match &launch.network {
            Some(network) if self.role != Role::Router => {
                network.command(self.place, &launch.binary, &args)?
            }
            _ => command(&launch.binary, &args),
        };
        if let Some(filter) = std::env::var_os(LOG_VARIABLE) {
            command.env("RUST_LOG", filter);
        }
        command.envs(launch.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Waits until it says that it serves. At its first start, it may have to try other ports.
    pub(super) async fn ready(&mut self, launch: &mut Launch) -> anyhow::Result<()> {
        for _ in 1..PORT_TRIES {
            match self.said().await {
                Err(why) if self.id == 0 && format!("{why:?}").contains("in use on") => {
                    (self.port, self.peer_port, self.links) = (0, 0, None);
                    self.spawn(launch)?;
                }
                other => return other,
            }
        }
        self.said().await
    }

    async fn said(&mut self) -> anyhow::Result<()> {
        let mut service = self.service.take().with_context(|| format!("{} does not run", self.name()))?;
        let waited = tokio::task::spawn_blocking(move || (service.ready_line(), service)).await;
        let (line, service) = waited.context("waiting for the ready line")?;
        let line = line.with_context(|| self.name())?;
        self.service = Some(service);
        self.understand(&line).with_context(|| format!("{} said {line:?}", self.name()))
    }

    /// Reads `flotilla node 3 ready on http://127.0.0.1:15002, peers on 127.0.0.1:15003, data in DIR`.
    fn understand(&mut self, line: &str) -> anyhow::Result<()> {
        let rest = line.strip_prefix("flotilla ").and_then(|rest| rest.strip_prefix(self.role.verb()));
        let (id, rest) =
            rest.and_then(|rest| rest.split_once("ready on http://")).context("no ready line")?;
        if self.role == Role::Router {
            let address: SocketAddr = rest.trim().parse().context("no address")?;
            ensure!(address.port() == self.port, "another port than {}", self.port);
            return Ok(());
        }
        let id: u64 = id.trim().parse().context("no node id")?;
        let (address, rest) = rest.split_once(", peers on ").context("no peer address")?;
        let (peers, data) = rest.split_once(", data in ").context("no data folder")?;
        ensure!(self.id == 0 || self.id == id, "its id was {} before", self.id);
        ensure!(address.parse() == Ok(self.address()), "it serves elsewhere than {}", self.address());
        ensure!(peers.parse() == Ok(self.peer_address()), "its peers are not on {}", self.peer_address());
        ensure!(Path::new(data) == self.data, "it serves another folder than {}", self.data.display());
        self.id = id;
        Ok(())
    }

    pub(super) async fn start(&mut self, launch: &mut Launch) -> anyhow::Result<()> {
        self.spawn(launch)?;
        self.ready(launch).await
    }

    fn service(&self) -> anyhow::Result<&Service> {
        self.service.as_ref().with_context(|| format!("{} does not run", self.name()))
    }

    pub(super) fn kill9(&mut self) {
        if let Some(service) = self.service.take() {
            self.past += &service.kill9();
        }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.service.as_mut().is_none_or(Service::has_ended)
    }

    pub(super) fn pause(&self) -> anyhow::Result<()> {
        self.service()?.signal(Signal::Stop)
    }

    pub(super) fn freeze(&self, calls: InFlight) -> anyhow::Result<()> {
        self.service()?.freeze(calls)
    }

    pub(super) fn resume(&self) -> anyhow::Result<()> {
        self.service()?.signal(Signal::Continue)
    }

    pub(super) async fn terminate(&mut self) -> anyhow::Result<()> {
        self.service()?.signal(Signal::Terminate)?;
        let Some(service) = self.service.take() else { bail!("{} does not run", self.name()) };
        let drained = tokio::task::spawn_blocking(move || service.drained()).await;
        self.past += &drained.context("waiting for the drain")?.with_context(|| self.name())?;
        Ok(())
    }

    /// What it says of its replicas; none if it does not answer soon.
    pub async fn status(&self) -> Option<peer::StatusResponse> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.peer_address())).ok()?;
        let channel = endpoint.timeout(STATUS_WITHIN).connect_timeout(STATUS_WITHIN).connect().await.ok()?;
        let mut stub = PeerClient::new(channel);
        Some(stub.status(peer::StatusRequest::default()).await.ok()?.into_inner())
    }
}

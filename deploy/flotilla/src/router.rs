//! `flotilla router`: a stateless front of a cluster, until a signal ends it.
//!
//! Standard output carries exactly one line, once a node has told the placement map:
//! `flotilla router ready on http://127.0.0.1:15010`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use flotilla_router::{Router, server};
use flotilla_security::tls::Role;
use prometheus::Registry;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::config::live::Watched;
use crate::security::{self, Security};
use crate::telemetry::Telemetry;
use crate::{target, up};

/// Its port where nobody says another: that of a node may be on the same machine.
const PORT: u16 = 15_010;
/// How long a router looks for a node before it gives up.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// Arguments of `flotilla router`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla router --node 127.0.0.1:15002                        on 127.0.0.1:15010
  flotilla router --node db-0.db:15002 --node db-1.db:15002     any of them tells where the others are
  flotilla router --node db-0.db:15002 --config router.yaml     with limits, credentials and TLS: see `flotilla config show`

Holds no data: run several, stop any.")]
pub struct RouterArgs {
    /// Node to ask for the placement map, host:port of its data port; may be said several times [default: cluster.shards]
    #[arg(long, value_name = "HOST:PORT")]
    node: Vec<String>,
    /// YAML file of settings: server.*, performance.threads, security.*, hub.*, telemetry.* and cluster.shards concern a router
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of gRPC and HTTP [default: 15010]; 0 takes any free one
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Seconds that calls are still taken after health says NOT_SERVING
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    lame_duck: u64,
    /// Listen beyond this machine without credentials and TLS: anybody who reaches the port may do anything
    #[arg(long)]
    insecure_bind: bool,
}

impl RouterArgs {
    /// What `flotilla up` was told, for a router that its configuration describes.
    pub fn configured(
        config: Option<PathBuf>,
        (port, bind): (Option<u16>, Option<String>),
        insecure_bind: bool,
    ) -> RouterArgs {
        RouterArgs { node: Vec::new(), config, port, bind, lame_duck: 0, insecure_bind }
    }
    /// Serves until a signal.
    pub fn run(self) -> anyhow::Result<()> {
        let watched = Watched::load(self.config.clone(), self.flags())?;
        let config = watched.config();
        let is_guarded = config.security.guards_public();
        security::refuse_open_bind(config.server.bind, is_guarded, self.insecure_bind)?;
        security::refuse_nameless(&config)?;
        let mut nodes = self.node.clone();
        nodes.extend(watched.member()?.nodes);
        if nodes.is_empty() {
            anyhow::bail!("no node: name one with --node HOST:PORT, or as cluster.shards in --config FILE");
        }
        target::run(config.performance.threads, self.serve(watched, nodes))
    }

    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let flags = [
            ("server.port", "--port", self.port.map(|port| port.to_string())),
            ("server.bind", "--bind", self.bind.clone()),
        ];
        flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?))).collect()
    }

    async fn serve(self, watched: Watched, nodes: Vec<String>) -> anyhow::Result<()> {
        let stop = up::stop_signal()?;
        let config = watched.config();
        let security = Security::open(&config.security, Some(Role::Router))?;
        let telemetry = Telemetry::open(&config.telemetry, "flotilla-router")?;
        let port = if watched.names("server.port") { config.server.port } else { PORT };
        let at = SocketAddr::new(config.server.bind, port);
        let listener = TcpListener::bind(at).await.map_err(|why| up::plain(why.into(), at, Path::new("")))?;
        let at = listener.local_addr()?;
        let (limits, bounds) = (config.limits(), config.server.bounds());
        let trust = security.trust.clone();
        let hub = config.hub.clone();
        let options = flotilla_router::Options { nodes, limits, bounds, trust, hub, ..Default::default() };
        let registry = Registry::new();
        security.register(&registry)?;
        telemetry.register(&registry)?;
        let router = Router::start(options, None, registry)?;
        let mut front =
            server::Options { lame_duck: Duration::from_secs(self.lame_duck), ..server::Options::default() };
        security.guard(&mut front);
        let scheme = security::scheme(security.door.as_ref());
        tokio::pin!(stop);
        let (told, telling) = tokio::sync::oneshot::channel::<()>();
        let until = async move {
            let _ = telling.await;
        };
        let limited = router.clone();
        let limit = move |config: &Config| limited.limit(config.limits(), config.server.bounds());
        let following = tokio::spawn(watched.follow(limit));
        let serving = tokio::spawn(server::listen(listener, router.clone(), front, until));
        tokio::select! {
            ready = router.ready(READY_WITHIN) => {
                ready.map_err(|status| anyhow::anyhow!("no node told the placement map: {}", status.message()))?;
                let mut out = std::io::stdout().lock();
                writeln!(out, "flotilla router ready on {scheme}://{at}")?;
                out.flush()?;
                drop(out);
                stop.await;
            }
            () = &mut stop => {}
        }
        tracing::info!("draining");
        following.abort();
        drop(told);
        let served = serving.await?.map_err(|why| anyhow::anyhow!("{why}"));
        telemetry.close().await;
        served.context("the port's service ended")
    }
}

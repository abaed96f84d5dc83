//! `flotilla router`: a stateless front of a cluster, until a signal ends it.
//!
//! Standard output carries exactly one line, once a node has told the placement map:
//! `flotilla router ready on http://127.0.0.1:15010`.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use flotilla_router::{Router, server};
use prometheus::Registry;
use tokio::net::TcpListener;

use crate::{node, target, up};

/// How long a router looks for a node before it gives up.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// Arguments of `flotilla router`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla router --node 127.0.0.1:15002                        on 127.0.0.1:15010
  flotilla router --node db-0.db:15002 --node db-1.db:15002     any of them tells where the others are

Holds no data: run several, stop any.")]
pub struct RouterArgs {
    /// Node to ask for the placement map, host:port of its data port; may be said several times
    #[arg(long, value_name = "HOST:PORT", required = true)]
    node: Vec<String>,
    /// Port of gRPC and HTTP; 0 takes any free one
    #[arg(long, default_value_t = 15_010)]
    port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Seconds that calls are still taken after health says NOT_SERVING
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    lame_duck: u64,
    /// Listen beyond this machine although there are no credentials yet: anybody who reaches the port may do anything
    #[arg(long)]
    insecure_bind: bool,
}

impl RouterArgs {
    /// Serves until a signal.
    pub fn run(self) -> anyhow::Result<()> {
        node::refuse_open_bind(self.bind, self.insecure_bind)?;
        target::run(0, self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let stop = up::stop_signal()?;
        let at = SocketAddr::new(self.bind, self.port);
        let listener = TcpListener::bind(at).await.map_err(|why| up::plain(why.into(), at, Path::new("")))?;
        let at = listener.local_addr()?;
        let options = flotilla_router::Options { nodes: self.node, ..Default::default() };
        let router = Router::start(options, None, Registry::new())?;
        let front =
            server::Options { lame_duck: Duration::from_secs(self.lame_duck), ..server::Options::default() };
        tokio::pin!(stop);
        let (told, telling) = tokio::sync::oneshot::channel::<()>();
        let until = async move {
            let _ = telling.await;
        };
        let serving = tokio::spawn(server::listen(listener, router.clone(), front, until));
        tokio::select! {
            ready = router.ready(READY_WITHIN) => {
                ready.map_err(|status| anyhow::anyhow!("no node told the placement map: {}", status.message()))?;
                let mut out = std::io::stdout().lock();
                writeln!(out, "flotilla router ready on http://{at}")?;
                out.flush()?;
                drop(out);
                stop.await;
            }
            () = &mut stop => {}
        }
        tracing::info!("draining");
        drop(told);
        serving.await?.map_err(|why| anyhow::anyhow!("{why}")).context("the port's service ended")
    }
}

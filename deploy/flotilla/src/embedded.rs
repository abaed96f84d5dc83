//! The embedded tier: one process with a node, a router in front of it, and real gRPC between them over an in-process
//! pipe. The same code as in a cluster; only the wire is shorter.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use flotilla_client::Client;
use flotilla_node::server::Node;
use flotilla_router::inproc;
use flotilla_router::server as front;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the process is set up.
pub struct Options {
    /// The node: folder, log, stores.
    pub node: flotilla_node::server::Options,
    /// Where the API is served to others; none: only to this process.
    pub listen: Option<SocketAddr>,
    /// The router.
    pub router: front::Options,
}

impl Options {
    /// Defaults for a folder, served to this process only.
    pub fn new(data_dir: PathBuf) -> Options {
        Options {
            node: flotilla_node::server::Options::new(data_dir),
            listen: None,
            router: front::Options::default(),
        }
    }
}

/// A running embedded Flotilla. [`Embedded::stop`] drains it; dropping it leaves the end to the process.
pub struct Embedded {
    node: Arc<Node>,
    client: Client,
    address: Option<SocketAddr>,
    stopping: watch::Sender<bool>,
    front: Vec<JoinHandle<anyhow::Result<()>>>,
    back: JoinHandle<anyhow::Result<()>>,
    back_stopping: watch::Sender<bool>,
}

async fn told(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Embedded {
    /// Starts everything; returns when it answers.
    pub async fn start(options: Options) -> anyhow::Result<Embedded> {
        // The port first: a port in use is told before a folder is touched.
        let listener = match options.listen {
            Some(at) => Some(
                tokio::net::TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?,
            ),
            None => None,
        };
        let address = listener.as_ref().map(|l| l.local_addr()).transpose()?;
        let node = Arc::new(Node::open(options.node).await?);
        let registry = Registry::new();
        registry.register(Box::new(node.gauges()))?;

        let (connector, connections) = inproc::pair();
        let (back_stopping, back_told) = watch::channel(false);
        let serving = node.clone();
        let back = tokio::spawn(async move {
            serving.serve(connections, told(back_told)).await.context("the node's service ended")
        });

        let router = flotilla_router::Router::start(Some(connector), registry, options.router.clone()).await?;
        let (stopping, _) = watch::channel(false);
        let mut front = Vec::new();
        let (to_router, from_client) = inproc::pair();
        let told_here = stopping.subscribe();
        let (serving, router_options) = (router.clone(), options.router.clone());
        front.push(tokio::spawn(async move {
            front::serve(from_client, serving, router_options, told(told_here)).await.context("the in-process API ended")
        }));
        if let Some(listener) = listener {
            let told_here = stopping.subscribe();
            let router_options = options.router.clone();
            let connections = front::tcp(listener);
            front.push(tokio::spawn(async move {
                front::serve(connections, router, router_options, told(told_here)).await.context("the API ended")
            }));
        }
        let client = Client::from_channel(to_router.channel());
        Ok(Embedded { node, client, address, stopping, front, back, back_stopping })
    }

    /// A client of this process.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the API is served to others.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Finishes the calls in flight, then stops router, node and log.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Embedded { node, client, stopping, front, back, back_stopping, .. } = self;
        drop(client);
        stopping.send_replace(true);
        for task in front {
            task.await??;
        }
        back_stopping.send_replace(true);
        back.await??;
        node.stop().await;
        Ok(())
    }
}

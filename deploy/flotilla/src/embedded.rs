//! The embedded tier: one process with a node and a router in front of it, whose calls go straight into the node's services.
//! The same code as in a cluster; only the wire is missing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use flotilla_client::Client;
use flotilla_node::index::vector_cache;
use flotilla_node::partition::answers;
use flotilla_node::server::{Defaults, Node};
use flotilla_router::line::Line;
use flotilla_router::{Router, server as front};
use flotilla_trace::Page;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::security::Security;
use crate::telemetry::Telemetry;

/// How the process is set up.
pub struct Options {
    /// The node: folder, log, stores.
    pub node: flotilla_node::server::Options,
    /// Where the API is served to others; none: only to this process.
    pub listen: Option<SocketAddr>,
    /// The router.
    pub router: flotilla_router::Options,
    /// The port.
    pub front: front::Options,
    /// Who may call at the port, and over which connections; none: anybody, in plain text.
    pub security: Option<Security>,
    /// Where traces go; none: what is traced is the library's user's matter.
    pub telemetry: Option<Telemetry>,
}

impl Options {
    /// Defaults for a folder, served to this process only.
    pub fn new(data_dir: PathBuf) -> Options {
        Options {
            node: flotilla_node::server::Options::new(data_dir),
            listen: None,
            router: flotilla_router::Options::default(),
            front: front::Options::default(),
            security: None,
            telemetry: None,
        }
    }

    /// As configured, for a folder. Within a tokio runtime.
    ///
    /// # Errors
    /// If a file of keys or certificates is damaged, or the collector of traces is none.
    pub fn from_config(config: &Config, data_dir: &Path) -> anyhow::Result<Options> {
        let mut options = Options::new(data_dir.to_owned());
        options.listen = Some(SocketAddr::new(config.server.bind, config.server.port));
        configure(&mut options.node, config);
        options.router.limits = config.limits();
        options.router.bounds = config.server.bounds();
        options.router.hub = config.hub.clone();
        options.security = Some(Security::open(&config.security, None)?);
        options.telemetry = Some(Telemetry::open(&config.telemetry, "flotilla")?);
        Ok(options)
    }
}

/// Gives the configuration's word to a node's options.
pub fn configure(node: &mut flotilla_node::server::Options, config: &Config) {
    if config.performance.threads > 0 {
        node.threads = config.performance.threads;
        node.store.index_threads = config.performance.threads;
    }
    node.log.sync = config.storage.sync;
    node.log.lanes = config.log.lanes;
    node.log.segment_bytes = config.log.segment_bytes;
    let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    node.store.seal_rows = whole(config.storage.seal_rows);
    node.store.seal_bytes = whole(config.storage.seal_bytes);
    node.store.compression = config.storage.compression;
    node.store.backlog_max = whole(config.backlog_max);
    node.raft.heartbeat_ms = config.raft.heartbeat_ms;
    node.lag.sync_interval_ms = config.replication.sync_interval_ms;
    node.lag.max_lag_ms = config.replication.max_lag_ms;
    node.equality.every = Duration::from_secs(config.replication.compare_seconds);
    node.worker.verify_every = Duration::from_secs(config.storage.verify_seconds);
    node.recall_every = Duration::from_secs(config.recall_seconds);
    node.defaults = Defaults {
        partitions: config.cluster.partitions,
        replication_factor: config.cluster.replication_factor,
        is_range: config.cluster.is_range,
        index: config.index,
        quantization: config.quantization,
    };
    node.room.memory_bytes = config.memory.max_heap_mb << 20;
    node.room.reserve_bytes = config.storage.reserve_bytes;
    node.answers = answers::Options {
        is_enabled: config.cache.enabled,
        bytes_max: config.cache.query_size_mb.min(config.memory.cache_size_mb) << 20,
        ttl: Duration::from_secs(config.cache.query_ttl_seconds),
    };
    // Both together stay within the bound of all caches; the answers come first.
    let rest = config.memory.cache_size_mb.saturating_sub(config.cache.query_size_mb);
    node.vectors = vector_cache::Options {
        bytes_max: if config.cache.enabled { config.cache.vector_size_mb.min(rest) << 20 } else { 0 },
        eviction: config.cache.vector_eviction,
    };
    node.is_mapping = config.memory.is_mapping;
    node.tenants = config.hub.as_ref().map(|hub| hub.classes.clone());
    node.growth.grow_bytes = config.cluster.grow_bytes;
    node.growth.advise_bytes = config.cluster.advise_bytes;
    node.autoscale = config.autoscale;
}

/// A running embedded Flotilla. [`Embedded::stop`] drains it; one that is dropped drains on its own time.
#[derive(Debug)]
pub struct Embedded {
    client: Client,
    router: Weak<Router>,
    address: Option<SocketAddr>,
    stopping: watch::Sender<bool>,
    running: JoinHandle<anyhow::Result<()>>,
}

async fn told(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone: then it is time too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Embedded {
    /// Starts everything; returns when it answers.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the folder cannot be opened.
    pub async fn start(options: Options) -> anyhow::Result<Embedded> {
        // The port first: a port in use is told before a folder is touched.
        let listener = match options.listen {
            Some(at) => {
                let bound = tokio::net::TcpListener::bind(at).await;
                Some(bound.with_context(|| format!("cannot listen on {at}"))?)
            }
            None => None,
        };
        let address = listener.as_ref().map(|listener| listener.local_addr()).transpose()?;
        let node = Arc::new(Node::open(options.node).await?);
        let page = Page::default();
        page.register(Box::new(node.gauges()))?;
        node.timings().iter().try_for_each(|timings| page.time(timings))?;

        // Who is in this process need not say who it is.
        let mut guarded = options.front.clone();
        if let Some(security) = &options.security {
            security.register(page.registry())?;
            security.guard(&mut guarded);
        }
        if let Some(telemetry) = &options.telemetry {
            telemetry.register(page.registry())?;
        }
        let router = Router::start(options.router, Some(Line::Here(node.in_process())), page)?;
        let front_door = Arc::downgrade(&router);
        let (stopping, _) = watch::channel(false);
        let until = told(stopping.subscribe());
        let (channel, in_process) = front::in_process_until(router.clone(), options.front.clone(), until);
        let until = told(stopping.subscribe());
        let port = tokio::spawn(async move {
            match listener {
                Some(listener) => front::listen(listener, router, guarded, until).await,
                None => Ok(()),
            }
        });
        let running = tokio::spawn(async move {
            port.await?.map_err(|why| anyhow::anyhow!("the port's service ended: {why}"))?;
            in_process.await?;
            node.stop().await;
            drop(options.security);
            if let Some(telemetry) = options.telemetry {
                telemetry.close().await;
            }
            Ok(())
        });
        Ok(Embedded { client: Client::from_channel(channel), router: front_door, address, stopping, running })
    }

    /// A client of this process.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Gives effect to the live keys of a configuration, for as long as it runs.
    pub fn limiter(&self) -> impl Fn(&Config) + Send + 'static {
        let router = self.router.clone();
        move |config| {
            if let Some(router) = router.upgrade() {
                router.limit(config.limits(), config.server.bounds());
            }
        }
    }

    /// Where the API is served to others.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Finishes the calls in flight, then stops router, node and log.
    ///
    /// # Errors
    /// If a part ended before it was told to.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Embedded { client, stopping, running, .. } = self;
        drop(client);
        stopping.send_replace(true);
        running.await?
    }
}

/// A running embedded Flotilla that belongs to its clients.
#[derive(Debug)]
pub struct Owned(tokio::sync::Mutex<Option<Embedded>>);

impl Owned {
    /// Hands it over.
    pub fn new(running: Embedded) -> Owned {
        Owned(tokio::sync::Mutex::new(Some(running)))
    }
}

impl flotilla_client::Owned for Owned {
    fn close(&self) -> futures::future::BoxFuture<'_, flotilla_client::Result<()>> {
        Box::pin(async {
            match self.0.lock().await.take() {
                Some(running) => running.stop().await.map_err(|why| {
                    flotilla_client::Error::new(flotilla_client::Kind::Broken, format!("{why:#}"))
                }),
                None => Ok(()),
            }
        })
    }
}

//! The node as a whole: its folder, its log, its meta group and its replicas, and the gRPC services in front of them.
//!
//! [`Node::open`] takes the folder (locked against a second process, checked for its format), recovers the log, opens the
//! meta group and then whatever the placement map says this node holds. [`Node::serve`] answers routers on any stream of
//! connections: a TCP listener's, or the in-process pipe of the embedded tier. [`Node::stop`] ends in the opposite order.

mod folder;
pub mod metrics;

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::placement::Node as Member;
use flotilla_proto::shard::meta_server::MetaServer;
use flotilla_proto::shard::shard_server::ShardServer;
use futures::{Future, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tonic::transport::server::Connected;

pub use self::folder::FORMAT;
use self::folder::Folder;
use crate::env::task;
use crate::log::Lanes;
use crate::meta::{EMBEDDED_NODE, Meta};
use crate::partition::Shared;
use crate::partition::equality::{self, Equality, OnDivergent};
use crate::partition::registry::Registry;
use crate::peers::Peers;
use crate::service::{MetaService, ShardService};
use crate::storage::Fault;
use crate::{log, raft, storage, worker};

pub use crate::service::Defaults;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its data folder; made if it is missing.
    pub data_dir: PathBuf,
    /// Where others reach it, as `host:port`, or `inproc`.
    pub address: String,
    /// Cores that reads and background work may use (at least 1).
    pub threads: usize,
    /// The log lanes.
    pub log: log::Options,
    /// The stores.
    pub store: storage::store::Options,
    /// The Raft groups.
    pub raft: raft::Options,
    /// The background work of the partitions.
    pub worker: worker::Options,
    /// How replicas are compared.
    pub equality: equality::Options,
    /// What a new collection gets where its creator says nothing.
    pub defaults: Defaults,
}

impl Options {
    /// Defaults for a folder, on as many cores as the machine has.
    pub fn new(data_dir: PathBuf) -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            data_dir,
            address: "inproc".to_owned(),
            threads,
            // An entry is applied as soon as it is durable: the log need not hold many bodies in memory.
            log: log::Options { cache_bytes: 8 << 20, ..log::Options::default() },
            store: storage::store::Options { index_threads: threads, ..Default::default() },
            raft: raft::Options::default(),
            worker: worker::Options::default(),
            equality: equality::Options::default(),
            defaults: Defaults::default(),
        }
    }
}

/// A running node.
pub struct Node {
    folder: Folder,
    lanes: Arc<Lanes>,
    meta: Arc<Meta>,
    registry: Arc<Registry>,
    equality: Arc<Equality>,
    tasks: Mutex<Vec<task::JoinHandle<()>>>,
    defaults: Defaults,
}

impl Node {
    /// Opens the node: returns when its replicas are open and it can answer.
    ///
    /// # Errors
    /// A folder that is in use, not writable, of a newer format or damaged as a whole. A single damaged partition is
    /// quarantined instead, and named to whoever asks for it.
    pub async fn open(options: Options) -> Result<Node, Fault> {
        let folder = Folder::open(&options.data_dir)?;
        let lanes = open_log(&folder, options.log.clone()).await?;
        let member = Member::new(EMBEDDED_NODE, folder.uuid(), options.address.clone());
        let meta = Meta::open(&folder.path().join("meta"), &lanes, member, &options.raft).await?;
        let threads = options.threads.max(1);
        let shared = Shared {
            store: options.store,
            raft: options.raft.clone(),
            read_permits: Arc::new(Semaphore::new(threads * 4)),
            work_permits: Arc::new(Semaphore::new(1)),
            worker: options.worker,
            peers: Arc::new(Peers::new(EMBEDDED_NODE, folder.uuid())),
        };
        let peers = shared.peers.clone();
        let partitions = folder.path().join("partitions");
        let registry = Arc::new(Registry::new(EMBEDDED_NODE, partitions, lanes.clone(), shared));
        registry.reconcile(&meta.map()).await;
        let follower = task::spawn(registry.clone().follow(meta.watch()));
        let on_divergent: OnDivergent = Arc::new(|partition, node| {
            tracing::error!(
                partition = partition.0,
                node = node.0,
                "a divergent replica waits for its rebuild"
            );
        });
        let equality = Equality::new(EMBEDDED_NODE, registry.clone(), peers, options.equality, on_divergent);
        let equality = Arc::new(equality);
        let comparing = task::spawn(equality.clone().run());
        let (meta, tasks) = (Arc::new(meta), Mutex::new(vec![follower, comparing]));
        Ok(Node { folder, lanes, meta, registry, equality, tasks, defaults: options.defaults })
    }

    /// Answers routers on these connections until `shutdown` ends; calls in flight are finished.
    pub async fn serve<C, S>(
        &self,
        connections: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        S: Stream<Item = std::io::Result<C>>,
    {
        let shard = ShardServer::new(ShardService::new(self.registry.clone(), self.meta.clone()));
        let meta = MetaServer::new(MetaService::new(self.registry.clone(), self.meta.clone(), self.defaults));
        tonic::transport::Server::builder()
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .add_service(
                shard
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add_service(
                meta.max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .serve_with_incoming_shutdown(connections, shutdown)
            .await
    }

    /// What the node's metrics are read from.
    pub fn gauges(&self) -> metrics::Gauges {
        metrics::Gauges::new(self.registry.clone(), self.lanes.clone(), self.equality.divergences())
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops replicas, meta group and log, in this order. Everything acknowledged is on disk already.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.registry.stop().await;
        self.meta.stop().await;
        self.lanes.close().await;
    }
}

async fn open_log(folder: &Folder, options: log::Options) -> Result<Arc<Lanes>, Fault> {
    let path = folder.path().join("log");
    let at = path.clone();
    let opened = task::spawn_cpu(move || Lanes::open(&at, options)).await.map_err(|_| Fault::Cancelled)?;
    let (lanes, recovery) =
        opened.map_err(|why| Fault::Io { file: path, reason: why.to_string(), is_full: false })?;
    for torn in &recovery.torn {
        tracing::warn!(?torn, "the log ended in a torn record, which was never acknowledged");
    }
    for (group, damage) in &recovery.quarantined {
        tracing::error!(group, ?damage, "the log is damaged: this group is quarantined");
    }
    Ok(lanes)
}

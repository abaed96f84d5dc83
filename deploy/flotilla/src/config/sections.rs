//! The configuration, section by section: every key's value, with the defaults filled in.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_node::index::vector_cache::Eviction;
use flotilla_node::meta::autoscale;
use flotilla_node::storage::Compression;
use flotilla_proto::schema::{Hnsw, IndexKind, Lsh, Quantization};
use flotilla_router::Hub;
use flotilla_router::admission::Limits;

use super::Settings;
use crate::{security, telemetry};

/// `server.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port of gRPC and HTTP; 0: any free one.
    pub port: u16,
    /// Connections of one port at once.
    pub max_connections: usize,
    /// Milliseconds that a connection may take to begin.
    pub connection_timeout_ms: u64,
    /// Milliseconds of silence after which a connection is asked whether it lives.
    pub keep_alive_ms: u64,
    /// Milliseconds that a stream may stand still.
    pub stream_idle_ms: u64,
    /// The requests.
    pub thread_pool: ThreadPool,
}

/// `server.thread_pool.*`
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadPool {
    /// Requests of one class that others do not keep from running, per core.
    pub core_size: usize,
    /// Requests that run at once, per core.
    pub max_size: usize,
    /// Requests of one class that wait.
    pub queue_size: usize,
}

impl Server {
    /// What a port is told.
    pub fn bounds(&self) -> flotilla_port::Bounds {
        flotilla_port::Bounds {
            connections_max: self.max_connections,
            connection_timeout: Duration::from_millis(self.connection_timeout_ms),
            keep_alive: Duration::from_millis(self.keep_alive_ms),
            stream_idle: Duration::from_millis(self.stream_idle_ms),
        }
    }
}

impl Config {
    /// What a router is told.
    pub fn limits(&self) -> Limits {
        let cores = match self.performance.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let ThreadPool { core_size, max_size, queue_size } = self.server.thread_pool;
        Limits {
            core: core_size.saturating_mul(cores),
            running_max: max_size.saturating_mul(cores),
            waiting_max: queue_size,
        }
    }
}

/// `storage.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// The folder, if the configuration names one.
    pub data_dir: Option<PathBuf>,
    /// Acknowledge a write only once it would survive a power cut.
    pub sync: bool,
    /// Records after which a growing segment is sealed.
    pub seal_rows: u64,
    /// Bytes of memory after which a growing segment is sealed.
    pub seal_bytes: u64,
    /// How payloads are compressed.
    pub compression: Compression,
    /// Seconds between two checks of a replica's sealed segments; 0: never.
    pub verify_seconds: u64,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
}

/// `log.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Lanes of the write-ahead log.
    pub lanes: usize,
    /// Bytes of one of its files.
    pub segment_bytes: u64,
}

/// `raft.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Raft {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Log entries kept for replicas that lag.
    pub entries_kept: u64,
}

/// `replication.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Milliseconds between two questions to the leaders.
    pub sync_interval_ms: u64,
    /// Milliseconds of lag that a bounded read allows where it names none.
    pub max_lag_ms: u64,
    /// Seconds between two comparisons of a partition's replicas; 0: never.
    pub compare_seconds: u64,
}

/// `memory.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// MiB that the process may use; 0: what the system allows.
    pub max_heap_mb: u64,
    /// MiB of all caches together.
    pub cache_size_mb: u64,
    /// Whether sealed files are mapped, and not read into memory.
    pub is_mapping: bool,
}

/// `cache.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Whether there are caches.
    pub enabled: bool,
    /// MiB of the query cache.
    pub query_size_mb: u64,
    /// Seconds that it keeps an answer.
    pub query_ttl_seconds: u64,
    /// MiB of the vector cache.
    pub vector_size_mb: u64,
    /// What it lets go of first.
    pub vector_eviction: Eviction,
}

/// `performance.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Performance {
    /// Worker threads; 0: one per core.
    pub threads: usize,
}

/// `cluster.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Partitions of a new collection that names none.
    pub partitions: u32,
    /// Voting replicas of each of them; 0: as many as there are nodes, up to a bound.
    pub replication_factor: u32,
    /// Whether keys are spread by their order.
    pub is_range: bool,
    /// Stored bytes at which a collection gets more; 0: never.
    pub grow_bytes: u64,
    /// Stored bytes at which a cluster is advised; 0: never.
    pub advise_bytes: u64,
}

/// A whole configuration with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub server: Server,
    /// The data folder and its segments.
    pub storage: Storage,
    /// The write-ahead log.
    pub log: Log,
    /// The replicas' groups.
    pub raft: Raft,
    /// The replicas, and how they are watched.
    pub replication: Replication,
    /// Use of memory.
    pub memory: Memory,
    /// What is kept for the next asker.
    pub cache: Cache,
    /// Use of the machine.
    pub performance: Performance,
    /// Index of a new collection's vector that names none.
    pub index: IndexKind,
    /// Vectors of a partition that may wait for their index before its writes wait too.
    pub backlog_max: u64,
    /// Seconds between two comparisons of a replica's search with a scan; 0: never.
    pub recall_seconds: u64,
    /// What its searches look at first, where its index is named but not this.
    pub quantization: Option<Quantization>,
    /// The spread of collections.
    pub cluster: Cluster,
    /// When more or fewer shard nodes are wanted.
    pub autoscale: autoscale::Options,
    /// Who may call, and over which connections.
    pub security: security::Options,
    /// What it means to be a tenant's; none, if nobody is.
    pub hub: Option<Hub>,
    /// Where traces go.
    pub telemetry: telemetry::Options,
}

impl Default for Config {
    fn default() -> Config {
        Config::from(&Settings::default())
    }
}

impl From<&Settings> for Config {
    fn from(settings: &Settings) -> Config {
        // The table's bounds make every narrowing below lossless; a test reads each key at its bounds.
        let narrow = |name: &str| u32::try_from(settings.number(name)).unwrap_or(u32::MAX);
        let hnsw = Hnsw {
            m: narrow("index.hnsw.m"),
            ef_construction: narrow("index.hnsw.ef_construction"),
            ef_search: narrow("index.hnsw.ef_search"),
        };
        let quantization = settings.flag("quantization.enabled").then(|| {
            match settings.text("quantization.type").as_str() {
                "binary" => Quantization::Binary,
                "product" => Quantization::Product,
                _ => Quantization::Scalar,
            }
        });
        let loopback = IpAddr::from([127, 0, 0, 1]);
        Config {
            server: Server {
                bind: settings.text("server.bind").parse().unwrap_or(loopback),
                port: u16::try_from(settings.number("server.port")).unwrap_or(u16::MAX),
                max_connections: narrow("server.max_connections") as usize,
                connection_timeout_ms: settings.number("server.connection_timeout_ms"),
                keep_alive_ms: settings.number("server.keep_alive_ms"),
                stream_idle_ms: settings.number("server.stream_idle_ms"),
                thread_pool: ThreadPool {
                    core_size: narrow("server.thread_pool.core_size") as usize,
                    max_size: narrow("server.thread_pool.max_size") as usize,
                    queue_size: narrow("server.thread_pool.queue_size") as usize,
                },
            },
            storage: Storage {
                data_dir: settings.path("storage.data_dir"),
                sync: settings.flag("storage.sync"),
                seal_rows: settings.number("storage.seal_rows"),
                seal_bytes: settings.number("storage.seal_bytes"),
                compression: match settings.text("storage.compression").as_str() {
                    "none" => Compression::None,
                    "zstd" => Compression::Zstd(narrow("storage.compression_level") as i32),
                    _ => Compression::Lz4,
                },
                verify_seconds: settings.number("storage.verify_seconds"),
                reserve_bytes: settings.number("storage.reserve_bytes"),
            },
            log: Log {
                lanes: narrow("log.lanes") as usize,
                segment_bytes: settings.number("log.segment_bytes"),
            },
            raft: Raft {
                heartbeat_ms: settings.number("raft.heartbeat_ms"),
                entries_kept: settings.number("raft.entries_kept"),
            },
            replication: Replication {
                sync_interval_ms: settings.number("replication.sync_interval_ms"),
                max_lag_ms: settings.number("replication.max_lag_ms"),
                compare_seconds: settings.number("replication.compare_seconds"),
            },
            backlog_max: settings.number("index.backlog_max"),
            recall_seconds: settings.number("index.recall_seconds"),
            memory: Memory {
                max_heap_mb: settings.number("memory.max_heap_mb"),
                cache_size_mb: settings.number("memory.cache_size_mb"),
                is_mapping: settings.flag("memory.mmap_enabled"),
            },
            cache: Cache {
                enabled: settings.flag("cache.enabled"),
                query_size_mb: settings.number("cache.query_cache.size_mb"),
                query_ttl_seconds: settings.number("cache.query_cache.ttl_seconds"),
                vector_size_mb: settings.number("cache.vector_cache.size_mb"),
                vector_eviction: match settings.text("cache.vector_cache.eviction").as_str() {
                    "lfu" => Eviction::Lfu,
                    _ => Eviction::Lru,
                },
            },
            performance: Performance { threads: narrow("performance.threads") as usize },
            index: match (settings.text("index.type").as_str(), quantization) {
                ("flat", _) => IndexKind::Flat,
                ("lsh", _) => IndexKind::Lsh(Lsh::default()),
                (_, Some(quantization)) => IndexKind::Quantized(hnsw, quantization),
                (_, None) => IndexKind::Hnsw(hnsw),
            },
            quantization,
            cluster: Cluster {
                partitions: narrow("cluster.partitions"),
                replication_factor: settings.text("cluster.sharding.replication_factor").parse().unwrap_or(0),
                is_range: settings.text("cluster.sharding.strategy") == "range",
                grow_bytes: settings.number("cluster.grow_bytes"),
                advise_bytes: settings.number("cluster.advise_bytes"),
            },
            autoscale: settings.autoscale(),
            security: settings.security(),
            hub: settings.hub(),
            telemetry: settings.telemetry(),
        }
    }
}

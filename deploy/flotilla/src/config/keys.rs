//! The one table of configuration keys: name, kind, default, bounds, unit and meaning. `config show` prints it, the
//! loader refuses what is not in it, and a test holds the README's table against it.

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number within bounds.
    Number {
        /// Value of a key that is not set.
        default: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A truth value.
    Flag {
        /// Value of a key that is not set.
        default: bool,
    },
    /// One of some words.
    Word {
        /// Value of a key that is not set.
        default: &'static str,
        /// The words.
        of: &'static [&'static str],
    },
    /// An IP address.
    Address {
        /// Value of a key that is not set.
        default: &'static str,
    },
    /// A share of the whole, from 0 to 1.
    Ratio {
        /// Value of a key that is not set.
        default: &'static str,
    },
    /// A folder or a file; no default.
    Path,
    /// Any text; no default.
    Text,
}

impl Kind {
    /// The default as a user would write it; empty where there is none.
    pub fn default_text(&self) -> String {
        match self {
            Kind::Number { default, .. } => default.to_string(),
            Kind::Flag { default } => default.to_string(),
            Kind::Word { default, .. } | Kind::Address { default } | Kind::Ratio { default } => {
                (*default).to_owned()
            }
            Kind::Path | Kind::Text => String::new(),
        }
    }

    /// The legal values in words.
    pub fn legal(&self) -> String {
        match self {
            Kind::Number { min, max, .. } => format!("{min} to {max}"),
            Kind::Flag { .. } => "true | false".to_owned(),
            Kind::Word { of, .. } => of.join(" | "),
            Kind::Address { .. } => "an IP address".to_owned(),
            Kind::Ratio { .. } => "0 to 1".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Text => "a text".to_owned(),
        }
    }
}

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name, as nested in the file.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Unit of a number; empty for a plain count.
    pub unit: &'static str,
    /// Meaning, one sentence.
    pub doc: &'static str,
    /// Whether a change in the file takes effect while the server runs.
    pub is_live: bool,
}

const fn number(
    name: &'static str,
    [default, min, max]: [u64; 3],
    unit: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind: Kind::Number { default, min, max }, unit, doc, is_live: false }
}

/// That key, of which a change takes effect while the server runs.
const fn live(key: Key) -> Key {
    Key { is_live: true, ..key }
}

const fn path(name: &'static str, doc: &'static str) -> Key {
    Key { name, kind: Kind::Path, unit: "", doc, is_live: false }
}

/// Every key that this version gives effect to, in the order of `config show`.
pub const KEYS: &[Key] = &[
    Key {
        name: "server.bind",
        kind: Kind::Address { default: "127.0.0.1" },
        unit: "",
        doc: "Address to listen on; other than loopback needs credentials and TLS, or --insecure-bind.",
        is_live: false,
    },
    number("server.port", [15_002, 0, 65_535], "", "Port of gRPC and HTTP; 0 takes any free one."),
    live(number(
        "server.max_connections",
        [10_000, 1, 1_000_000],
        "connections",
        "Connections of one port at once; beyond, calls are refused with RESOURCE_EXHAUSTED, and probes answered.",
    )),
    live(number(
        "server.connection_timeout_ms",
        [30_000, 50, 3_600_000],
        "ms",
        "How long a connection may take for its first bytes, a head of HTTP/1 to arrive, and a write to move on.",
    )),
    live(number(
        "server.keep_alive_ms",
        [60_000, 50, 3_600_000],
        "ms",
        "A connection silent for this long is asked whether it lives, and closed if it does not answer.",
    )),
    live(number(
        "server.stream_idle_ms",
        [600_000, 50, 86_400_000],
        "ms",
        "How long a stream of requests may say nothing, and a caller take nothing of its answers.",
    )),
    live(number(
        "server.thread_pool.core_size",
        [16, 1, 100_000],
        "requests per core",
        "Requests of one class (system, read, write, background) that those of others do not keep from running.",
    )),
    live(number(
        "server.thread_pool.max_size",
        [64, 1, 100_000],
        "requests per core",
        "Requests that run at once in a router, for each worker thread (see performance.threads).",
    )),
    live(number(
        "server.thread_pool.queue_size",
        [1_000, 0, 1_000_000],
        "requests",
        "Requests of one class that wait; beyond, RESOURCE_EXHAUSTED with the time after which to try again.",
    )),
    Key {
        name: "storage.data_dir",
        kind: Kind::Path,
        unit: "",
        doc: "Folder that holds everything; created if it is not there. The flag --data goes before it.",
        is_live: false,
    },
    Key {
        name: "storage.sync",
        kind: Kind::Flag { default: true },
        unit: "",
        doc: "Whether a write is acknowledged only once it would survive a power cut; false survives the end of \
              the process only.",
        is_live: false,
    },
    number(
        "storage.seal_rows",
        [10_000, 16, 1_000_000],
        "records",
        "Records after which a growing segment is sealed.",
    ),
    number(
        "storage.seal_bytes",
        [32 << 20, 1 << 16, 4 << 30],
        "bytes",
        "Memory of a growing segment after which it is sealed.",
    ),
    Key {
        name: "storage.compression",
        kind: Kind::Word { default: "lz4", of: &["none", "lz4", "zstd"] },
        unit: "",
        is_live: false,
        doc: "How payloads are compressed in the segments to come; each segment knows how its own are.",
    },
    number(
        "storage.compression_level",
        [3, 1, 22],
        "",
        "Level of zstd: higher is smaller, and slower to write.",
    ),
    number(
        "storage.verify_seconds",
        [300, 0, 1_000_000],
        "s",
        "How often one sealed segment of each replica is read whole and checked; 0: never.",
    ),
    number(
        "storage.reserve_bytes",
        [1 << 30, 0, 1 << 60],
        "bytes",
        "Free space below which writes are refused, kept for seals and merges; at most a twentieth of the disk counts.",
    ),
    number(
        "log.lanes",
        [4, 1, 256],
        "",
        "Files the write-ahead log of a new folder is spread over; a folder keeps its number.",
    ),
    number(
        "log.segment_bytes",
        [64 << 20, 1 << 12, 1 << 30],
        "bytes",
        "Size of one file of the write-ahead log, reserved on disk when it is begun.",
    ),
    number(
        "raft.heartbeat_ms",
        [400, 50, 10_000],
        "ms",
        "Time between a leader's heartbeats; after five to six times as long without one, another leads.",
    ),
    number(
        "raft.entries_kept",
        [1_000, 0, 1_000_000],
        "entries",
        "Log entries of a partition that a cluster's node keeps for replicas that lag; behind them files are sent.",
    ),
    number(
        "replication.sync_interval_ms",
        [100, 10, 60_000],
        "ms",
        "How often a node asks the leaders how far its replicas lag.",
    ),
    number(
        "replication.compare_seconds",
        [60, 0, 1_000_000],
        "s",
        "How often the replicas of each partition are compared; 0: never.",
    ),
    number(
        "memory.max_heap_mb",
        [0, 0, 1 << 30],
        "MiB",
        "Memory that the process may use, mapped files not counted; 0: what its control group or the machine allows.",
    ),
    number("memory.cache_size_mb", [2_048, 0, 1 << 30], "MiB", "Memory of all caches together, at most."),
    Key {
        name: "cache.enabled",
        kind: Kind::Flag { default: true },
        unit: "",
        is_live: false,
        doc: "Whether answers are kept for who asks the same of the same state.",
    },
    number(
        "cache.query_cache.size_mb",
        [512, 0, 1 << 30],
        "MiB",
        "Memory for answers of searches, at most; never more than an eighth of what the process may use.",
    ),
    number("cache.query_cache.ttl_seconds", [300, 0, 1_000_000], "s", "How long an answer is kept."),
    number("performance.threads", [0, 0, 1_024], "", "Worker threads; 0 takes one per core."),
    Key {
        name: "index.type",
        kind: Kind::Word { default: "hnsw", of: &["hnsw", "flat", "lsh"] },
        unit: "",
        doc: "Index of a new collection's vector that names none: a graph, an exact scan, or hashes.",
        is_live: false,
    },
    number("index.hnsw.m", [16, 2, 256], "links", "Links per vertex above level 0 in a new collection."),
    number(
        "index.hnsw.ef_construction",
        [200, 1, 65_536],
        "candidates",
        "Candidates kept while building a new collection's graph.",
    ),
    number(
        "index.hnsw.ef_search",
        [100, 1, 65_536],
        "candidates",
        "Candidates kept while searching a new collection, unless the request says otherwise.",
    ),
    number(
        "index.backlog_max",
        [40_000, 1_000, 1 << 30],
        "vectors",
        "Vectors of a partition that may wait for their index before its writes wait too; searches scan them.",
    ),
    number(
        "index.recall_seconds",
        [30, 0, 1_000_000],
        "s",
        "How often the answer of one search of each replica is compared with a scan, at low priority; 0: never.",
    ),
    Key {
        name: "quantization.enabled",
        kind: Kind::Flag { default: true },
        unit: "",
        doc: "Whether searches of a new collection's graph look at codes before they read whole vectors.",
        is_live: false,
    },
    Key {
        name: "quantization.type",
        kind: Kind::Word { default: "scalar", of: &["scalar", "binary", "product"] },
        unit: "",
        doc: "Those codes: 8 bits for each value beside one-bit sketches, the sketches alone, or a byte for each eight values.",
        is_live: false,
    },
    number("cluster.partitions", [4, 1, 256], "", "Partitions of a new collection that names none."),
    number(
        "cluster.grow_bytes",
        [10 << 30, 0, 1 << 60],
        "bytes",
        "Stored bytes at which a collection on a single node is spread over 10 partitions, online; 0: never.",
    ),
    number(
        "cluster.advise_bytes",
        [100 << 30, 0, 1 << 60],
        "bytes",
        "Stored bytes at which a single node advises a cluster in its log; 0: never.",
    ),
    Key {
        name: "hub.enabled",
        kind: Kind::Flag { default: false },
        unit: "",
        is_live: false,
        doc: "Whether callers are tenants': whoever calls needs one in its credentials, or admin on all collections.",
    },
    Key {
        name: "hub.tenant_isolation",
        kind: Kind::Word { default: "collection", of: &["none", "collection", "storage"] },
        unit: "",
        is_live: false,
        doc: "What new collections of a tenant have of their own: nothing, names, or names and folders.",
    },
    number(
        "hub.tenant_limits.default.max_collections",
        [100, 0, 1 << 60],
        "collections",
        "Collections that a tenant of the class default may have.",
    ),
    number(
        "hub.tenant_limits.default.max_vectors_per_collection",
        [10_000_000, 0, 1 << 60],
        "vectors",
        "Vectors that one collection of a tenant of the class default may have.",
    ),
    number(
        "hub.tenant_limits.default.max_storage_bytes",
        [100 << 30, 0, 1 << 60],
        "bytes",
        "Bytes that all collections of a tenant of the class default may have.",
    ),
    number(
        "hub.tenant_limits.default.max_requests_per_minute",
        [1_000, 1, 1_000_000_000],
        "requests",
        "Requests that a tenant of the class default may make, at all routers together.",
    ),
    number(
        "hub.tenant_limits.enterprise.max_collections",
        [1_000, 0, 1 << 60],
        "collections",
        "Collections that a tenant of the class enterprise may have.",
    ),
    number(
        "hub.tenant_limits.enterprise.max_vectors_per_collection",
        [100_000_000, 0, 1 << 60],
        "vectors",
        "Vectors that one collection of a tenant of the class enterprise may have.",
    ),
    number(
        "hub.tenant_limits.enterprise.max_storage_bytes",
        [1 << 40, 0, 1 << 60],
        "bytes",
        "Bytes that all collections of a tenant of the class enterprise may have.",
    ),
    number(
        "hub.tenant_limits.enterprise.max_requests_per_minute",
        [10_000, 1, 1_000_000_000],
        "requests",
        "Requests that a tenant of the class enterprise may make, at all routers together.",
    ),
    path(
        "security.api_keys_file",
        "API keys, as `flotilla keys` writes them: whoever calls must have one. Of up and router.",
    ),
    path("security.jwt.hs_secret_file", "Shared secret of tokens signed by HS256, at least 32 bytes."),
    path("security.jwt.rs_public_key_file", "Public key (PEM) of tokens signed by RS256."),
    path("security.jwt.es_public_key_file", "Public key (PEM) of tokens signed by ES256."),
    Key {
        name: "security.jwt.audience",
        kind: Kind::Text,
        unit: "",
        is_live: false,
        doc: "Whom tokens must be meant for (aud); needed for tokens.",
    },
    Key {
        name: "security.jwt.issuer",
        kind: Kind::Text,
        unit: "",
        is_live: false,
        doc: "Who must have made tokens (iss); anybody with the key, if it is not set.",
    },
    path(
        "security.cluster_key_file",
        "Key that nodes and routers of a cluster show each other; the first line is sent, each is taken.",
    ),
    path(
        "security.audit_file",
        "File to which administrative and refused calls are written, one JSON line each.",
    ),
    number(
        "security.audit_bytes_max",
        [64 << 20, 1 << 12, 1 << 40],
        "bytes",
        "Size at which the audit file becomes FILE.1 and a new one is begun.",
    ),
    Key {
        name: "security.metrics_open",
        kind: Kind::Flag { default: true },
        unit: "",
        is_live: false,
        doc: "Whether /metrics takes no credentials; /livez and /readyz never do.",
    },
    path(
        "security.tls.cert_file",
        "Certificate (PEM) of the public API: with it, connections are encrypted. Of up and router.",
    ),
    path("security.tls.key_file", "Key (PEM) of that certificate."),
    path(
        "security.tls.client_ca_file",
        "Authorities (PEM) of clients: with it, every call needs a certificate of theirs.",
    ),
    path(
        "security.peer_tls.cert_file",
        "Certificate (PEM) between members of a cluster; names flotilla://node or flotilla://router as a URI.",
    ),
    path("security.peer_tls.key_file", "Key (PEM) of that certificate."),
    path("security.peer_tls.ca_file", "Authority (PEM) of the cluster's members."),
    Key {
        name: "telemetry.otlp_endpoint",
        kind: Kind::Text,
        unit: "",
        is_live: false,
        doc: "Collector to which traces go by OTLP over gRPC, such as http://127.0.0.1:4317; none: no traces are exported.",
    },
    Key {
        name: "telemetry.sample_ratio",
        kind: Kind::Ratio { default: "0.01" },
        unit: "",
        is_live: false,
        doc: "Share of the calls that begin a trace which is exported, where their callers do not say.",
    },
    Key {
        name: "telemetry.service_name",
        kind: Kind::Text,
        unit: "",
        is_live: false,
        doc: "Name of this process in traces; if it is not set: flotilla, flotilla-node, flotilla-replica or flotilla-router.",
    },
];

/// Keys that are planned and not there yet. A file that names one is refused instead of being half obeyed. A name
/// stands for itself and for everything nested in it.
pub const UNSUPPORTED: &[&str] = &[
    "memory.mmap_enabled",
    "replication.enabled",
    "replication.role",
    "replication.bind_address",
    "replication.master_address",
    "replication.max_lag_ms",
    "cluster.enabled",
    "cluster.mode",
    "cluster.shards",
    "cluster.sharding",
    "cluster.shard_id",
    "cluster.router_address",
    "cache.vector_cache",
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys are nested in this name.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| nested_in(key.name, name))
}

/// The planned key that `name` is, or lies in.
pub fn unsupported(name: &str) -> Option<&'static str> {
    UNSUPPORTED.iter().copied().find(|known| name == *known || nested_in(name, known))
}

fn nested_in(name: &str, section: &str) -> bool {
    name.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The known key most like a wrong name, if any is like it.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, known);
        let tail = strsim::normalized_damerau_levenshtein(&last(name), &last(known));
        whole.max(0.9 * tail)
    };
    KEYS.iter()
        .map(|key| (likeness(key.name), key.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .map(|(_, name)| name)
}

/// The environment variable that sets a key: `server.port` is `FLOTILLA_SERVER_PORT`.
pub fn variable(name: &str) -> String {
    format!("FLOTILLA_{}", name.replace('.', "_").to_uppercase())
}

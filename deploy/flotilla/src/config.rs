//! Configuration of a server: a YAML file, the environment over it, flags over both.
//!
//! Every key stands in one table ([`keys::KEYS`]) with its meaning, default, bounds and unit. A name that is not in it
//! refuses to start and is answered with the nearest known one; a key that is planned but without effect in this version
//! is refused too, since obeying half of a file is worse than saying so. All problems are reported at once, each with
//! the place it was read from. Nothing here touches the network or the data folder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_node::storage::Compression;
use flotilla_proto::schema::{Hnsw, IndexKind, Lsh, Quantization};
use flotilla_proto::tenant::{self, Class, Classes, Isolation};
use flotilla_router::Hub;
use flotilla_router::admission::Limits;

use crate::{security, telemetry};

mod command;
mod file;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod keys;
pub mod live;

pub use command::ConfigArgs;
use keys::{KEYS, Key, Kind};

/// A value as set.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A whole number within the key's bounds.
    Number(u64),
    /// A truth value.
    Flag(bool),
    /// One of the key's words, an address or a path.
    Text(String),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Number(number) => number.fmt(f),
            Setting::Flag(flag) => flag.fmt(f),
            Setting::Text(text) => text.fmt(f),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, the environment variable or the flag.
    pub place: String,
    /// What is wrong: names the key, the limit and the value.
    pub what: String,
}

impl Problem {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { place: place.into(), what: what.into() }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Problem { place, what }) in self.0.iter().enumerate() {
            write!(f, "{}{place}: {what}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// What was set, and from where; everything else has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<&'static str, (Setting, String)>);

impl Settings {
    /// Reads the file (if any), then the environment, then the flags: a later one goes before an earlier one.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, &str, String)],
    ) -> Result<Settings, Invalid> {
        let mut settings = Settings::default();
        let mut problems = Vec::new();
        if let Some(path) = file {
            let name = path.display().to_string();
            match flotilla_node::env::fs::read(path).map(String::from_utf8) {
                Ok(Ok(text)) => settings.take_file(&name, &text, &mut problems),
                Ok(Err(_)) => problems.push(Problem::new(name, "not UTF-8 text")),
                Err(error) => problems.push(Problem::new("--config", error.to_string())),
            }
        }
        settings.take_environment(environment, &mut problems);
        settings.take_flags(flags, &mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(Invalid(problems)) }
    }

    fn take_file(&mut self, name: &str, text: &str, problems: &mut Vec<Problem>) {
        let parsed = file::parse(name, text);
        problems.extend(parsed.problems);
        for (key, setting, place) in parsed.settings {
            self.0.insert(key.name, (setting, place));
        }
    }

    fn take_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) {
        for (variable, text) in environment.filter(|(name, _)| name.starts_with("FLOTILLA_")) {
            let place = format!("environment {variable}");
            match KEYS.iter().find(|key| keys::variable(key.name) == variable) {
                Some(key) => self.take(key, &text, place, problems),
                None => problems.extend(misspelt(&variable).map(|what| Problem::new(place, what))),
            }
        }
    }

    fn take_flags(&mut self, flags: &[(&'static str, &str, String)], problems: &mut Vec<Problem>) {
        for (name, flag, text) in flags {
            match keys::find(name) {
                Some(key) => self.take(key, text, (*flag).to_owned(), problems),
                None => problems.push(Problem::new(*flag, format!("unknown key `{name}`"))),
            }
        }
    }

    fn take(&mut self, key: &'static Key, text: &str, place: String, problems: &mut Vec<Problem>) {
        match setting_from_text(key, text) {
            Ok(setting) => drop(self.0.insert(key.name, (setting, place))),
            Err(why) => problems.push(Problem::new(place, format!("{}: {why}", key.name))),
        }
    }

    /// The value of a key, and where it was set; `None` if it was not.
    pub fn get(&self, name: &str) -> Option<(&Setting, &str)> {
        self.0.get(name).map(|(setting, place)| (setting, place.as_str()))
    }

    /// How many keys were set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn number(&self, name: &str) -> u64 {
        match (self.0.get(name), keys::find(name).map(|key| key.kind)) {
            (Some((Setting::Number(number), _)), _) => *number,
            (_, Some(Kind::Number { default, .. })) => default,
            _ => 0,
        }
    }

    fn flag(&self, name: &str) -> bool {
        match (self.0.get(name), keys::find(name).map(|key| key.kind)) {
            (Some((Setting::Flag(flag), _)), _) => *flag,
            (_, Some(Kind::Flag { default })) => default,
            _ => false,
        }
    }

    fn text(&self, name: &str) -> String {
        match (self.0.get(name), keys::find(name)) {
            (Some((Setting::Text(text), _)), _) => text.clone(),
            (_, Some(key)) => key.kind.default_text(),
            _ => String::new(),
        }
    }
}

impl Settings {
    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn hub(&self) -> Option<Hub> {
        let limits = |class: Class| {
            let limit = |name: &str| self.number(&format!("hub.tenant_limits.{}.{name}", class.name()));
            let limits = tenant::Limits {
                max_collections: limit("max_collections"),
                max_vectors_per_collection: limit("max_vectors_per_collection"),
                max_storage_bytes: limit("max_storage_bytes"),
                max_requests_per_minute: limit("max_requests_per_minute"),
            };
            (class, limits)
        };
        let said = self.text("hub.tenant_isolation");
        let isolation = Isolation::ALL.into_iter().find(|isolation| isolation.name() == said);
        let hub = Hub {
            isolation: isolation.unwrap_or_default(),
            classes: Classes(Class::ALL.into_iter().map(limits).collect()),
        };
        self.flag("hub.enabled").then_some(hub)
    }

    fn telemetry(&self) -> telemetry::Options {
        let text = |name: &str| Some(self.text(name)).filter(|text| !text.is_empty());
        telemetry::Options {
            otlp_endpoint: text("telemetry.otlp_endpoint"),
            sample_ratio: self.text("telemetry.sample_ratio").parse().unwrap_or_default(),
            service_name: text("telemetry.service_name"),
        }
    }

    fn security(&self) -> security::Options {
        let files = |section: &str, ca: &str| {
            let file = |name: &str| self.path(&format!("{section}.{name}"));
            security::Files { cert_file: file("cert_file"), key_file: file("key_file"), ca_file: file(ca) }
        };
        security::Options {
            api_keys_file: self.path("security.api_keys_file"),
            jwt_hs_secret_file: self.path("security.jwt.hs_secret_file"),
            jwt_rs_public_key_file: self.path("security.jwt.rs_public_key_file"),
            jwt_es_public_key_file: self.path("security.jwt.es_public_key_file"),
            jwt_audience: self.text("security.jwt.audience"),
            jwt_issuer: self.text("security.jwt.issuer"),
            cluster_key_file: self.path("security.cluster_key_file"),
            audit_file: self.path("security.audit_file"),
            audit_bytes_max: self.number("security.audit_bytes_max"),
            metrics_open: self.flag("security.metrics_open"),
            tls: files("security.tls", "client_ca_file"),
            peer_tls: files("security.peer_tls", "ca_file"),
        }
    }
}

/// A variable that is almost one of ours. Others that merely start like ours are left alone: Kubernetes sets
/// `FLOTILLA_SERVICE_HOST` and the like for a service of that name.
fn misspelt(variable: &str) -> Option<String> {
    let near = |known: &String| strsim::damerau_levenshtein(variable, known) <= 2;
    let known = KEYS.iter().map(|key| keys::variable(key.name)).find(near)?;
    Some(format!("unknown variable; did you mean `{known}`?"))
}

/// The value of `key` from text; the error names the legal values and the text.
fn setting_from_text(key: &Key, text: &str) -> Result<Setting, String> {
    let refused = || format!("must be {}{}, got {text}", key.kind.legal(), unit(key));
    match key.kind {
        Kind::Number { min, max, .. } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Setting::Number(number)),
            _ => Err(refused()),
        },
        Kind::Flag { .. } => text.parse().map(Setting::Flag).map_err(|_| refused()),
        Kind::Word { of, .. } if of.contains(&text) => Ok(Setting::Text(text.to_owned())),
        Kind::Ratio { .. } if text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) => {
            Ok(Setting::Text(text.to_owned()))
        }
        Kind::Address { .. } if text.parse::<IpAddr>().is_ok() => Ok(Setting::Text(text.to_owned())),
        Kind::Path | Kind::Text if !text.is_empty() => Ok(Setting::Text(text.to_owned())),
        Kind::Word { .. } | Kind::Address { .. } | Kind::Ratio { .. } | Kind::Path | Kind::Text => {
            Err(refused())
        }
    }
}

fn unit(key: &Key) -> String {
    if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) }
}

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
                compare_seconds: settings.number("replication.compare_seconds"),
            },
            backlog_max: settings.number("index.backlog_max"),
            recall_seconds: settings.number("index.recall_seconds"),
            memory: Memory {
                max_heap_mb: settings.number("memory.max_heap_mb"),
                cache_size_mb: settings.number("memory.cache_size_mb"),
            },
            cache: Cache {
                enabled: settings.flag("cache.enabled"),
                query_size_mb: settings.number("cache.query_cache.size_mb"),
                query_ttl_seconds: settings.number("cache.query_cache.ttl_seconds"),
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
                grow_bytes: settings.number("cluster.grow_bytes"),
                advise_bytes: settings.number("cluster.advise_bytes"),
            },
            security: settings.security(),
            hub: settings.hub(),
            telemetry: settings.telemetry(),
        }
    }
}

#[cfg(test)]
mod tests;

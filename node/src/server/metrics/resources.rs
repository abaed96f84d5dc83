//! Figures of memory, processors, disk and caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::index::vector_cache::VectorCache;
use crate::log::Lanes;
use crate::partition::registry::Registry;
use crate::room::usage::PURPOSES;
use crate::room::{Purpose, Usage};

/// Collections that have series of their own: the largest. All others are one.
const COLLECTIONS_MAX: usize = 100;
/// What belongs to no collection, or to one that has no series of its own.
const NODE: &str = "";
/// The name of the query cache.
const QUERY: &str = "query";
/// That of the vector cache.
const VECTORS: &str = "vectors";

/// See the module.
pub(super) struct Resources {
    registry: Arc<Registry>,
    lanes: Arc<Lanes>,
    memory: IntGaugeVec,
    pressure: Gauge,
    retreat: IntGauge,
    usage: IntGauge,
    limit: IntGauge,
    cpu: Gauge,
    disk_free: IntGauge,
    disk_reserve: IntGauge,
    hits: IntCounterVec,
    shared: IntCounterVec,
    misses: IntCounterVec,
    cached: GaugeVec,
}

fn bytes(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Brings a counter up to a count that only grows.
fn follow(counter: &IntCounterVec, cache: &str, count: u64) {
    let counter = counter.with_label_values(&[cache]);
    counter.inc_by(count.saturating_sub(counter.get()));
}

impl Resources {
    /// Over these; none if a name is not one.
    pub fn new(registry: Arc<Registry>, lanes: Arc<Lanes>) -> Option<Resources> {
        let options = |name: &str, help: &str| Opts::new(format!("flotilla_{name}"), help);
        let gauge = |name, help| IntGauge::with_opts(options(name, help)).ok();
        let counter = |name, help| IntCounterVec::new(options(name, help), &["cache"]).ok();
        let help = "bytes of memory by collection and purpose, mapped files not counted; an empty collection: the node's own";
        Some(Resources {
            registry,
            lanes,
            memory: IntGaugeVec::new(options("memory_bytes", help), &["collection", "purpose"]).ok()?,
            pressure: Gauge::with_opts(options("memory_pressure", "memory used, of what may be: 0 to 1"))
                .ok()?,
            retreat: gauge("memory_retreat", "steps that the node retreated for want of memory: 0 to 5")?,
            usage: gauge("memory_usage_bytes", "bytes of memory of the process that belong to no file")?,
            limit: gauge("memory_limit_bytes", "bytes of memory that the process may use; 0: not known")?,
            cpu: Gauge::with_opts(options("cpu_usage", "processors that the process keeps busy")).ok()?,
            disk_free: gauge("disk_free_bytes", "free bytes of the data folder's disk")?,
            disk_reserve: gauge("disk_reserve_bytes", "free bytes below which writes are refused")?,
            hits: counter("cache_hits_total", "answers and vectors that were kept")?,
            shared: counter("cache_shared_total", "answers that were being computed for another caller")?,
            misses: counter(
                "cache_misses_total",
                "answers that had to be computed, vectors that had to be read",
            )?,
            cached: GaugeVec::new(options("cache_bytes", "bytes that a cache keeps"), &["cache"]).ok()?,
        })
    }

    fn all(&self) -> [&dyn Collector; 12] {
        [
            &self.memory,
            &self.pressure,
            &self.retreat,
            &self.usage,
            &self.limit,
            &self.cpu,
            &self.disk_free,
            &self.disk_reserve,
            &self.hits,
            &self.shared,
            &self.misses,
            &self.cached,
        ]
    }

    /// What is described.
    pub fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    /// The figures of this moment.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.read_memory();
        self.read_room();
        self.read_caches();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }

    fn read_memory(&self) {
        let mut by_collection: BTreeMap<String, Usage> = BTreeMap::new();
        for replica in self.registry.serving() {
            *by_collection.entry(replica.spec().name.clone()).or_default() += replica.usage();
        }
        let stats = self.lanes.stats();
        let vectors = VectorCache::known().map(VectorCache::figures).unwrap_or_default();
        let log = stats.cached_bytes + stats.queued_bytes;
        let mut node = Usage::default().with(Purpose::Log, log).with(Purpose::Caches, vectors.bytes);
        let mut largest: Vec<(String, Usage)> = by_collection.into_iter().collect();
        largest.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.total()));
        largest.drain(COLLECTIONS_MAX.min(largest.len())..).for_each(|(_, usage)| node += usage);
        self.memory.reset();
        for (name, usage) in largest.iter().map(|(name, usage)| (name.as_str(), usage)).chain([(NODE, &node)])
        {
            for purpose in PURPOSES {
                self.memory.with_label_values(&[name, purpose.word()]).set(bytes(usage.of(purpose)));
            }
        }
    }

    fn read_room(&self) {
        let room = self.registry.room();
        let ((used, limit), disk) = (room.memory(), room.disk());
        self.pressure.set(room.pressure());
        self.retreat.set(room.step() as i64);
        self.usage.set(bytes(used));
        self.limit.set(bytes(limit));
        self.cpu.set(room.cpu_usage());
        self.disk_free.set(bytes(disk.free));
        self.disk_reserve.set(bytes(disk.reserve));
    }

    fn read_caches(&self) {
        let figures = self.registry.answers().figures();
        follow(&self.hits, QUERY, figures.hits);
        follow(&self.shared, QUERY, figures.shared);
        follow(&self.misses, QUERY, figures.misses);
        self.cached.with_label_values(&[QUERY]).set(figures.bytes as f64);
        let figures = VectorCache::known().map(VectorCache::figures).unwrap_or_default();
        follow(&self.hits, VECTORS, figures.hits);
        follow(&self.misses, VECTORS, figures.misses);
        self.cached.with_label_values(&[VECTORS]).set(figures.bytes as f64);
    }
}

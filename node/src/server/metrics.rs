//! The node's figures, read when they are asked for.

mod fleet;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

use self::fleet::Fleet;
use self::resources::Resources;
use flotilla_proto::tenant::{TENANT_OTHER, TENANTS_NAMED_MAX};
use flotilla_trace::Timings;

use crate::log::Lanes;
use crate::meta::Meta;
use crate::partition::registry::Registry;

/// A prometheus collector over the node's replicas and log. Gauges carry the partition's id.
pub struct Gauges {
    registry: Arc<Registry>,
    lanes: Arc<Lanes>,
    partition: Vec<(Figure, GaugeVec)>,
    log: Option<IntGaugeVec>,
    quarantined: Option<IntGaugeVec>,
    divergences: Option<IntCounterVec>,
    recall: Option<GaugeVec>,
    resources: Option<Resources>,
    fleet: Option<Fleet>,
    tenants: Option<IntGaugeVec>,
    timings: Option<Timings>,
}

#[derive(Clone, Copy)]
enum Figure {
    Records,
    Segments,
    Growing,
    Unindexed,
    DiskBytes,
    MemoryBytes,
    IndexPermille,
    Waiting,
    Stale,
    IndexEta,
    IsLeader,
    Term,
    LogIndex,
    AppliedIndex,
    PurgedIndex,
    Lag,
    LagEntries,
    RecallSamples,
}

const FIGURES: [(Figure, &str, &str); 18] = [
    (Figure::Records, "partition_records", "live records of the partition"),
    (Figure::Segments, "partition_segments", "sealed segments"),
    (Figure::Growing, "partition_growing_records", "rows not yet sealed"),
    (Figure::Unindexed, "partition_unindexed_vectors", "vectors searched by scanning"),
    (Figure::DiskBytes, "partition_disk_bytes", "bytes of the partition's files"),
    (Figure::MemoryBytes, "partition_memory_bytes", "bytes held in memory, mapped files not counted"),
    (
        Figure::IndexPermille,
        "partition_index_progress_permille",
        "vectors that an index covers, per thousand",
    ),
    (
        Figure::Waiting,
        "partition_waiting_vectors",
        "vectors that an index is to be built over; writes wait while they are more than index.backlog_max",
    ),
    (
        Figure::Stale,
        "partition_stale_records",
        "records of segments that do not index a field as it is declared now: conditions on it read them",
    ),
    (
        Figure::IndexEta,
        "partition_index_eta_seconds",
        "time until nothing is left to index, at the present pace; absent: not known",
    ),
    (
        Figure::IsLeader,
        "partition_is_leader",
        "1 where the replica here leads the partition's group as far as it knows, 0 where it does not",
    ),
    (Figure::Term, "raft_term", "term of the partition's group"),
    (Figure::LogIndex, "raft_log_index", "last log index held"),
    (Figure::AppliedIndex, "raft_applied_index", "last log index applied"),
    (Figure::PurgedIndex, "raft_purged_index", "log index up to which the log is purged"),
    (
        Figure::Lag,
        "replica_lag_seconds",
        "how far the replica is behind its leader, at most; absent: not known",
    ),
    (
        Figure::LagEntries,
        "replica_lag_entries",
        "log entries that the leader had acknowledged and this replica lacks",
    ),
    (Figure::RecallSamples, "recall_samples", "searches that were compared with scans since the start"),
];

fn gauge(name: &str, help: &str, label: &str) -> Option<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(format!("flotilla_{name}"), help), &[label]).ok()
}

fn by_partition(name: &str, help: &str) -> Option<GaugeVec> {
    GaugeVec::new(Opts::new(format!("flotilla_{name}"), help), &["partition"]).ok()
}

/// A time in seconds; no series where it is not known.
fn time(gauge: &GaugeVec, partition: &str, time: Option<Duration>) {
    if let Some(time) = time {
        gauge.with_label_values(&[partition]).set(time.as_secs_f64());
    }
}

impl Gauges {
    /// Over these. Of the times, which are shown elsewhere, those of partitions that have gone are forgotten.
    pub fn new(
        (registry, meta): (Arc<Registry>, Arc<Meta>),
        lanes: Arc<Lanes>,
        divergences: Option<IntCounterVec>,
        timings: Option<Timings>,
    ) -> Gauges {
        let partition = FIGURES
            .iter()
            .filter_map(|(figure, name, help)| Some((*figure, by_partition(name, help)?)))
            .collect();
        let help = "the log lanes together: counters since start; segments, queued_bytes and lanes now";
        let log = gauge("log", help, "figure");
        let help = "1 for each partition whose replica here answers nothing until it is rebuilt";
        let quarantined = gauge("replica_quarantined", help, "partition");
        let help = "share of the nearest records that searches of the replica find, a mean over the last ones compared with scans";
        let recall = GaugeVec::new(Opts::new("flotilla_recall_at_k", help), &["partition"]).ok();
        let resources = Resources::new(registry.clone(), lanes.clone());
        let help = "bytes that the tenant's replicas on this node store; of the 100 that store most, of all others together";
        let tenants = gauge("tenant_storage_bytes", help, "tenant");
        let fleet = Fleet::new(meta);
        Gauges {
            registry,
            lanes,
            partition,
            log,
            quarantined,
            divergences,
            recall,
            resources,
            fleet,
            tenants,
            timings,
        }
    }

    fn read(&self) {
        for (_, gauge) in &self.partition {
            gauge.reset();
        }
        for replica in self.registry.serving() {
            let status = replica.status();
            let ((term, last, purged), applied) = replica.numbers();
            let (lag, lag_entries) = replica.lag_figures();
            let id = replica.id().to_string();
            // A counter that is there at 0 can be alerted on.
            self.divergences.iter().for_each(|counter| drop(counter.with_label_values(&[&id])));
            for (figure, gauge) in &self.partition {
                let whole = match figure {
                    Figure::IndexEta => {
                        time(gauge, &id, replica.pace(&status).1);
                        continue;
                    }
                    Figure::Lag => {
                        time(gauge, &id, lag);
                        continue;
                    }
                    Figure::Records => status.records,
                    Figure::Segments => status.segments,
                    Figure::Growing => status.growing_rows,
                    Figure::Unindexed => status.unindexed_vectors,
                    Figure::DiskBytes => status.disk_bytes,
                    Figure::MemoryBytes => status.memory_bytes,
                    Figure::IndexPermille => (status.index_progress * 1000.0) as u64,
                    Figure::Waiting => status.waiting_vectors,
                    Figure::Stale => status.stale_records,
                    Figure::IsLeader => u64::from(replica.group().leads()),
                    Figure::Term => term,
                    Figure::LogIndex => last,
                    Figure::AppliedIndex => applied,
                    Figure::PurgedIndex => purged,
                    Figure::LagEntries => lag_entries,
                    Figure::RecallSamples => replica.recall().1,
                };
                gauge.with_label_values(&[&id]).set(whole as f64);
            }
        }
        if let Some(timings) = &self.timings {
            let there: BTreeSet<String> =
                self.registry.serving().iter().map(|replica| replica.id().to_string()).collect();
            timings.retain(|partition| there.contains(partition));
        }
        if let Some(gauge) = &self.recall {
            gauge.reset();
            for replica in self.registry.serving() {
                if let (Some(mean), _) = replica.recall() {
                    gauge.with_label_values(&[&replica.id().to_string()]).set(mean);
                }
            }
        }
        if let Some(gauge) = &self.tenants {
            gauge.reset();
            for (tenant, bytes) in named(self.registry.stored_by_tenant()) {
                gauge.with_label_values(&[&tenant]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        if let Some(gauge) = &self.quarantined {
            gauge.reset();
            for replica in self.registry.serving() {
                gauge.with_label_values(&[&replica.id().to_string()]).set(0);
            }
            for (id, _) in self.registry.quarantined() {
                gauge.with_label_values(&[&id.to_string()]).set(1);
            }
        }
        let stats = self.lanes.stats();
        for (figure, value) in [
            ("records", stats.records),
            ("bytes", stats.bytes),
            ("syncs", stats.syncs),
            ("sync_micros", stats.sync_micros),
            ("sync_micros_max", stats.sync_micros_max),
            ("segments", stats.segments),
            ("queued_bytes", stats.queued_bytes),
            ("lanes_full", stats.lanes_full),
            ("lanes_poisoned", stats.lanes_poisoned),
        ] {
            if let Some(log) = &self.log {
                log.with_label_values(&[figure]).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}

/// The tenants that store most, and how much; the others as one.
fn named(stored: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut stored: Vec<(String, u64)> = stored.into_iter().collect();
    stored.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let others = stored.split_off(stored.len().min(TENANTS_NAMED_MAX));
    if !others.is_empty() {
        stored.push((TENANT_OTHER.to_owned(), others.iter().map(|(_, bytes)| bytes).sum()));
    }
    stored
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        let partition = self.partition.iter().flat_map(|(_, gauge)| gauge.desc());
        let node =
            self.log.iter().chain(&self.quarantined).chain(&self.tenants).flat_map(|gauge| gauge.desc());
        let node = node.chain(self.recall.iter().flat_map(|gauge| gauge.desc()));
        let node = node.chain(self.resources.iter().flat_map(|resources| resources.desc()));
        let node = node.chain(self.fleet.iter().flat_map(|fleet| fleet.desc()));
        partition.chain(node).chain(self.divergences.iter().flat_map(|counter| counter.desc())).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let partition = self.partition.iter().flat_map(|(_, gauge)| gauge.collect());
        let node =
            self.log.iter().chain(&self.quarantined).chain(&self.tenants).flat_map(|gauge| gauge.collect());
        let node = node.chain(self.recall.iter().flat_map(|gauge| gauge.collect()));
        let node = node.chain(self.resources.iter().flat_map(|resources| resources.collect()));
        let node = node.chain(self.fleet.iter().flat_map(|fleet| fleet.collect()));
        partition.chain(node).chain(self.divergences.iter().flat_map(|counter| counter.collect())).collect()
    }
}

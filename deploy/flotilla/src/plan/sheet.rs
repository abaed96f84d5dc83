//! The worksheet: what is wanted in, what it takes out. Pure.
//!
//! Memory is told three times: by the formula `vectors × (M×2×4+16)` for the graph and the vectors themselves, by the rule of
//! 2.5 times that, and as it was measured; the nodes are chosen by what was measured. Processors are told by the rule of 100
//! queries per second each, and as they were measured, at a load at which the latency holds; the nodes are chosen by the rule.

use super::measured::{self, Figure};
use super::{Codes, NodeSize, Wanted};

/// The factor of the rule of thumb.
const RULE: f64 = 2.5;
/// Queries per second of a processor, by the rule of thumb.
const QPS_RULE: f64 = 100.0;
/// The share of a processor, of memory and of a disk that a plan makes use of: above these more nodes are wanted.
const CPU_SHARE: f64 = 0.7;
const FULL_SHARE: f64 = 0.8;
/// Latencies fall off exponentially: the 99th of a hundred takes so many times the mean.
const P99_OVER_MEAN: f64 = 4.6;
const GIB: f64 = (1_u64 << 30) as f64;

/// What it takes. Bytes are of one copy unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// Vectors and graph by the formula.
    pub memory_formula: f64,
    /// By the rule of thumb.
    pub memory_rule: f64,
    /// As measured, in proportion to the dimensions.
    pub memory_measured: f64,
    /// Where that figure is from.
    pub memory_source: Figure,
    /// Processors by the rule of thumb.
    pub cpus_rule: f64,
    /// As measured, at a load at which the latency holds; infinite: it never does.
    pub cpus_measured: f64,
    /// Bytes of disk of one copy.
    pub disk: f64,
    /// Bytes of disk of all copies.
    pub disk_all: f64,
    /// Shard nodes, and what decides.
    pub nodes: u64,
    /// What takes so many: memory, disk, cpu or replicas.
    pub nodes_by: &'static str,
    /// What to know besides.
    pub notes: Vec<String>,
}

/// Fills it in.
pub fn fill(wanted: &Wanted, node: &NodeSize) -> Sheet {
    let vectors = wanted.vectors as f64;
    let raw = vectors * wanted.dims as f64 * 4.0;
    let memory_formula = raw + vectors * (wanted.m as f64 * 2.0 * 4.0 + 16.0);
    let share = wanted.dims as f64 / measured::DIMS as f64;
    let memory_source = measured::memory(wanted.codes);
    let memory_measured = vectors * memory_source.value * share;
    let disk = vectors * measured::DISK.value * share + wanted.records as f64 * wanted.record_bytes as f64;
    let copies = wanted.replicas as f64;
    let mut sheet = Sheet {
        memory_formula,
        memory_rule: memory_formula * RULE,
        memory_measured,
        memory_source,
        cpus_rule: wanted.qps / QPS_RULE,
        cpus_measured: cpus(wanted, share),
        disk,
        disk_all: disk * copies,
        nodes: 0,
        nodes_by: "",
        notes: Vec::new(),
    };
    // Every node has the process besides; one may be lost, and the others hold it all.
    let memory_each = (node.memory_gb * GIB * FULL_SHARE - measured::BASE_BYTES as f64).max(1.0);
    let by = [
        ("memory", (memory_measured * copies / memory_each).ceil()),
        ("disk", (sheet.disk_all / (node.disk_gb * GIB * FULL_SHARE)).ceil()),
        ("cpu", (sheet.cpus_rule / (node.cpus * CPU_SHARE)).ceil()),
    ];
    let needed =
        by.iter().fold(("replicas", copies - 1.0), |most, one| if one.1 > most.1 { *one } else { most });
    (sheet.nodes_by, sheet.nodes) = (needed.0, needed.1.max(0.0) as u64 + 1);
    sheet.notes = notes(wanted, &sheet);
    sheet
}

fn cpus(wanted: &Wanted, share: f64) -> f64 {
    let search_s = share / measured::QPS.value;
    let load = (1.0 - P99_OVER_MEAN * search_s / (wanted.p99_ms / 1_000.0)).min(CPU_SHARE);
    if load > 0.0 { wanted.qps * search_s / load } else { f64::INFINITY }
}

fn notes(wanted: &Wanted, sheet: &Sheet) -> Vec<String> {
    let mut notes = vec![match sheet.nodes_by {
        "replicas" => "nodes: each copy has a node of its own, and one may be lost".to_owned(),
        by => format!("nodes: {by} decides, and one more so that one may be lost"),
    }];
    if wanted.dims != measured::DIMS || wanted.m != 16 {
        let what = "measured figures are of 384 dimensions and M 16, here in proportion to the dimensions";
        notes.push(what.to_owned());
    }
    if wanted.codes == Codes::Binary {
        notes.push(
            "binary: vectors themselves stay on disk and are read through maps; memory under a limit"
                .to_owned(),
        );
    }
    if sheet.cpus_measured.is_infinite() {
        notes.push(format!("a p99 of {} ms is less than one such search takes", wanted.p99_ms));
    }
    notes
}

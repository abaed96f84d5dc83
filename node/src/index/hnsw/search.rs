//! Searching a frozen graph.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::take;

use parking_lot::Mutex;

use super::super::accept::is_live;
use super::super::neighbor::from_ordered;
use super::super::{Accept, Distance, Neighbor, Rows, Stats};
use super::beam::Scratch;
use super::format::{FrozenLayer, Graph, View};
use super::layer::{Layer, Probe, descend};

/// Scratch of finished searches, for the next ones: at most as many as ever searched at once, up to
/// [`Pool::KEPT`]. Each is 2 bytes per row and what a search's heaps grew to.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    const KEPT: usize = 16;

    fn take(&self) -> Scratch {
        self.0.lock().pop().unwrap_or_default()
    }

    fn give(&self, scratch: Scratch) {
        let mut kept = self.0.lock();
        if kept.len() < Self::KEPT {
            kept.push(scratch);
        }
    }
}

impl Graph {
    /// The `k` nearest accepted rows that a beam of `ef` (at least `k`) finds, nearest first.
    ///
    /// The walk goes through rows that are not accepted; only accepted ones are collected, until `ef` of them are
    /// held and no nearer vertex is left. It returns fewer than `k` only when fewer rows are accepted (or when
    /// `rows` is not the block that the graph was built over: rows missing there are passed over).
    #[allow(clippy::too_many_arguments)]
    pub fn search(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        k: usize,
        ef: usize,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let view = self.view();
        if k == 0 || view.is_empty() || rows.is_empty() {
            return Vec::new();
        }
        let width = ef.max(k).min(view.layer(0).len());
        let mut probe = Probe::new(rows, distance, query);
        let mut scratch = self.pool().take();
        let starts = [land(&view, &mut probe, &mut scratch.fresh), view.entry_row()];
        let bottom = view.layer(0).cut(rows.len());
        let (found, expanded) = match accept {
            Accept::All => {
                let expanded = scratch.walk(&bottom, &mut probe, &starts, width);
                (scratch.beam.found().take(k).map(neighbor).collect(), expanded)
            }
            Accept::Bits(bits) => {
                collect(&bottom, &mut probe, &starts, (k, width), |row| bits.contains(row), &mut scratch)
            }
            Accept::Live { deleted_at, at } => {
                let live = |row| is_live(deleted_at, at, row);
                collect(&bottom, &mut probe, &starts, (k, width), live, &mut scratch)
            }
        };
        self.pool().give(scratch);
        stats.visited += expanded;
        stats.distances += probe.distances;
        found
    }
}

/// Walks down the upper layers; the row of layer 0 where the search begins.
fn land(view: &View<'_>, probe: &mut Probe<'_>, fresh: &mut Vec<u32>) -> u32 {
    let mut vertex = view.entry();
    for number in (1..view.layers()).rev() {
        let layer = view.layer(number);
        let start = (vertex, probe.one(layer.row(vertex)));
        let (nearest, _) = descend(&layer, probe, start, fresh);
        vertex = layer.below(nearest);
    }
    vertex
}

/// Walks layer 0 through all vertices and collects the accepted ones: the `k` nearest of the `width` held.
/// Returns them and how many vertices were expanded.
fn collect(
    layer: &FrozenLayer<'_>,
    probe: &mut Probe<'_>,
    starts: &[u32],
    (k, width): (usize, usize),
    accepts: impl Fn(u32) -> bool,
    scratch: &mut Scratch,
) -> (Vec<Neighbor>, u64) {
    let (mut candidates, mut held) = (take(&mut scratch.candidates), take(&mut scratch.held));
    let meet = |row: u32, distance: u32, candidates: &mut BinaryHeap<_>, held: &mut BinaryHeap<u64>| {
        let key = u64::from(distance) << 32 | u64::from(row);
        let is_full = held.len() >= width;
        if is_full && held.peek().is_some_and(|worst| key >= *worst) {
            return;
        }
        candidates.push(Reverse(key));
        if accepts(row) {
            if is_full {
                held.pop();
            }
            held.push(key);
        }
    };
    scratch.visited.start(layer.len());
    for start in starts {
        if scratch.visited.first(*start) {
            meet(*start, probe.one(*start), &mut candidates, &mut held);
        }
    }
    let mut expanded = 0;
    while let Some(Reverse(key)) = candidates.pop() {
        if held.len() >= width && held.peek().is_some_and(|worst| key > *worst) {
            break;
        }
        expanded += 1;
        scratch.meet(layer, probe, key as u32);
        if let Some(Reverse(next)) = candidates.peek() {
            layer.prefetch_links(*next as u32);
        }
        probe.each(layer, &scratch.fresh, |row, distance| meet(row, distance, &mut candidates, &mut held));
    }
    let mut sorted = held.into_sorted_vec();
    let found = sorted.iter().take(k).map(|key| neighbor((*key as u32, (key >> 32) as u32))).collect();
    sorted.clear();
    candidates.clear();
    (scratch.candidates, scratch.held) = (candidates, BinaryHeap::from(sorted));
    (found, expanded)
}

fn neighbor((row, distance): (u32, u32)) -> Neighbor {
    Neighbor { row, distance: from_ordered(distance) }
}

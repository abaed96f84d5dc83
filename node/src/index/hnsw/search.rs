//! Searching a frozen graph.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::take;

use parking_lot::Mutex;

use super::super::accept::is_live;
use super::super::codes::Kind;
use super::super::codes::scan::{rescore, rescored};
use super::super::neighbor::from_ordered;
use super::super::{Accept, Codes, Distance, Effort, Neighbor, Rows, Stats};
use super::beam::Scratch;
use super::coded::{Coded, Sketched, Tabled};
use super::format::{FrozenLayer, Graph, View};
use super::layer::{Layer, Measure, Probe, descend};

/// Scratch of finished searches, for the next ones: at most as many as ever searched at once, up to
/// [`Pool::KEPT`]. Each is a bit per row and what a search's heaps grew to.
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
        let mut probe = Probe::new(rows, distance, query);
        let found = self.look(&mut probe, rows.len(), (k, ef), accept, stats);
        stats.distances += probe.distances;
        found.into_iter().take(k).map(neighbor).collect()
    }

    /// The same by codes of the rows: the walk measures by them, and the best of what it finds are ordered by the rows.
    #[allow(clippy::too_many_arguments)]
    pub fn search_codes(
        &self,
        rows: Rows<'_>,
        codes: &Codes,
        distance: Distance,
        query: &[f32],
        k: usize,
        effort: Effort,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let (len, width) = (rows.len().min(codes.len()), (k, effort.width));
        let (found, measured) = match codes.kind() {
            Kind::Scalar => {
                let question = codes.ask(query);
                let mut coded = Coded::new(codes, &question);
                let found = self.look(&mut coded, len, width, accept, stats);
                (found, coded.distances)
            }
            Kind::Binary => {
                let glance = codes.glance(query);
                let mut sketched = Sketched::new(codes, &glance);
                let found = self.look(&mut sketched, len, width, accept, stats);
                (found, sketched.distances)
            }
            Kind::Product => {
                let tables = codes.tables(query);
                let mut tabled = Tabled::new(&tables);
                let found = self.look(&mut tabled, len, width, accept, stats);
                (found, tabled.distances)
            }
        };
        stats.distances += measured;
        let best = found.iter().take(rescored(codes.kind(), k, effort.rescored)).map(|(row, _)| *row);
        rescore(rows, distance, query, k, best, stats)
    }

    /// Rows and their distances, nearest first: at least the `k` nearest of what the walk found.
    fn look<M: Measure>(
        &self,
        probe: &mut M,
        rows: usize,
        (k, ef): (usize, usize),
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<(u32, u32)> {
        let view = self.view();
        if k == 0 || view.is_empty() || rows == 0 {
            return Vec::new();
        }
        let width = ef.max(k).min(view.layer(0).len());
        let mut scratch = self.pool().take();
        let starts = [land(&view, probe, &mut scratch.fresh), view.entry_row()];
        let bottom = view.layer(0).cut(rows);
        let (found, expanded) = match accept {
            Accept::All => {
                let expanded = scratch.walk(&bottom, probe, &starts, width, None);
                (scratch.beam.found().collect(), expanded)
            }
            Accept::Without(row) => {
                let expanded = scratch.walk(&bottom, probe, &starts, width, Some(row));
                (scratch.beam.found().collect(), expanded)
            }
            Accept::Bits(bits) => {
                collect(&bottom, probe, &starts, width, |row| bits.contains(row), &mut scratch)
            }
            Accept::Live { deleted_at, at } => {
                let live = |row| is_live(deleted_at, at, row);
                collect(&bottom, probe, &starts, width, live, &mut scratch)
            }
        };
        self.pool().give(scratch);
        stats.visited += expanded;
        found
    }
}

/// Walks down the upper layers; the row of layer 0 where the search begins.
fn land<M: Measure>(view: &View<'_>, probe: &mut M, fresh: &mut Vec<u32>) -> u32 {
    let mut vertex = view.entry();
    for number in (1..view.layers()).rev() {
        let layer = view.layer(number);
        let start = (vertex, probe.one(layer.row(vertex)));
        let (nearest, _) = descend(&layer, probe, start, fresh);
        vertex = layer.below(nearest);
    }
    vertex
}

/// Walks layer 0 through all vertices and collects the `width` nearest accepted ones. Returns them and how many vertices were
/// expanded.
fn collect<M: Measure>(
    layer: &FrozenLayer<'_>,
    probe: &mut M,
    starts: &[u32],
    width: usize,
    accepts: impl Fn(u32) -> bool,
    scratch: &mut Scratch,
) -> (Vec<(u32, u32)>, u64) {
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
    loop {
        let worst = held.peek().copied().filter(|_| held.len() >= width).unwrap_or(u64::MAX);
        scratch.together.clear();
        while scratch.together.len() < M::TOGETHER
            && candidates.peek().is_some_and(|Reverse(key)| *key <= worst)
            && let Some(Reverse(key)) = candidates.pop()
        {
            scratch.together.push(key as u32);
        }
        if scratch.together.is_empty() {
            break;
        }
        expanded += scratch.together.len() as u64;
        if M::TOGETHER > 1 {
            scratch.together.iter().for_each(|vertex| probe.prefetch(layer, *vertex));
        }
        if let Some(Reverse(next)) = candidates.peek() {
            probe.prefetch(layer, *next as u32);
        }
        let bound = if worst == u64::MAX { f32::INFINITY } else { from_ordered((worst >> 32) as u32) };
        let Scratch { together, visited, fresh, .. } = scratch;
        probe.expand(layer, together, bound, visited, fresh, |row, distance| {
            meet(row, distance, &mut candidates, &mut held);
        });
    }
    let mut sorted = held.into_sorted_vec();
    let found = sorted.iter().map(|key| (*key as u32, (key >> 32) as u32)).collect();
    sorted.clear();
    candidates.clear();
    (scratch.candidates, scratch.held) = (candidates, BinaryHeap::from(sorted));
    (found, expanded)
}

fn neighbor((row, distance): (u32, u32)) -> Neighbor {
    Neighbor { row, distance: from_ordered(distance) }
}

//! Building a graph, several rows at a time.
//!
//! Layers are drawn before the first insertion, so every layer's vertices are numbered and its link blocks
//! allocated at once, and the entry vertex never moves. Walks read links as relaxed atomics without any lock: a
//! walk that meets a block in the middle of a change sees a mix of old and new links, which costs at most a
//! little quality. Changes to a block happen under its vertex's lock. A new vertex's own links, on all layers,
//! are written before any other vertex links to it, so nobody arrives at a vertex that leads nowhere.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::super::distance::prefetch::prefetch;
use super::super::{Cancelled, Codes, Distance, Progress, Rows};
use super::beam::Scratch;
use super::coded::ByBytes;
use super::format::{Graph, LayerParts};
use super::layer::{ByRows, Layer, Measure as _, Metric, descend};
use super::{LAYERS_MAX, NONE, Params, repair};

/// Builds a graph over `rows` with up to `threads` threads (at least one); one thread builds the same graph
/// every time. Needs about `8 m + 13` bytes per row beside the graph.
///
/// # Errors
/// [`Cancelled`] if `progress` was cancelled before the end.
pub fn build(
    rows: Rows<'_>,
    distance: Distance,
    params: &Params,
    threads: usize,
    progress: &Progress,
) -> Result<Graph, Cancelled> {
    build_by(&ByRows(rows, distance), params, threads, progress)
}

/// The same, where rows are measured by their bytes.
///
/// # Errors
/// [`Cancelled`] if `progress` was cancelled before the end.
pub fn build_by_codes(
    codes: &Codes,
    params: &Params,
    threads: usize,
    progress: &Progress,
) -> Result<Graph, Cancelled> {
    build_by(&ByBytes(codes), params, threads, progress)
}

fn build_by<M: Metric>(
    metric: &M,
    params: &Params,
    threads: usize,
    progress: &Progress,
) -> Result<Graph, Cancelled> {
    let layers = lay_out(metric.len() as u32, params);
    let builder = Builder { layers, metric, params };
    let next = AtomicU32::new(0);
    let extra_threads = threads.clamp(1, metric.len().max(1)) - 1;
    std::thread::scope(|scope| {
        let helpers: Vec<_> =
            (0..extra_threads).map(|_| scope.spawn(|| builder.insert_all(&next, progress))).collect();
        let mine = builder.insert_all(&next, progress);
        let theirs = helpers
            .into_iter()
            .map(|helper| helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        theirs.fold(mine, Result::and)
    })?;
    if let Some(entry) = builder.entry_row() {
        repair::reach_all(&builder.layers[0], entry, metric, progress)?;
    }
    Ok(Graph::freeze(params.links(), 0, &builder.layers.into_iter().map(Growing::freeze).collect::<Vec<_>>()))
}

/// The highest layer of a row: a row of one layer stands in the next with chance 1 in `m`. Integers only, so
/// that every machine draws the same.
fn draw(seed: u64, row: u32, m: u64) -> usize {
    let mut z = seed ^ (u64::from(row) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let thresholds = std::iter::successors(Some(u64::MAX / m), |threshold| Some(threshold / m));
    thresholds.take(LAYERS_MAX - 1).take_while(|threshold| z < *threshold).count()
}

/// Empty layers with all their vertices, bottom first; there is always a layer 0.
fn lay_out(len: u32, params: &Params) -> Vec<Growing> {
    let m = params.links();
    let mut layers = vec![Growing::new(Vec::new(), Vec::new(), len as usize, 2 * m)];
    let mut standing: Vec<(u32, usize)> =
        (0..len).map(|row| (row, draw(params.seed, row, m as u64))).filter(|(_, top)| *top > 0).collect();
    for number in 1..LAYERS_MAX {
        standing.retain(|(_, top)| *top >= number);
        if standing.is_empty() {
            break;
        }
        let rows: Vec<u32> = standing.iter().map(|(row, _)| *row).collect();
        let below = rows.iter().filter_map(|row| layers[number - 1].vertex(*row)).collect();
        let count = rows.len();
        layers.push(Growing::new(rows, below, count, m));
    }
    layers
}

/// A layer under construction.
pub(super) struct Growing {
    /// Rows of the vertices, ascending; empty on layer 0, where a vertex is its row.
    rows: Vec<u32>,
    below: Vec<u32>,
    links: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
    stride: usize,
}

impl Growing {
    fn new(rows: Vec<u32>, below: Vec<u32>, len: usize, stride: usize) -> Self {
        let links = std::iter::repeat_with(|| AtomicU32::new(NONE)).take(len * stride).collect();
        let locks = std::iter::repeat_with(Mutex::default).take(len).collect();
        Self { rows, below, links, locks, stride }
    }

    /// The vertex of a row, if the row stands in this layer.
    fn vertex(&self, row: u32) -> Option<u32> {
        if self.rows.is_empty() { Some(row) } else { self.rows.binary_search(&row).ok().map(|at| at as u32) }
    }

    fn block(&self, vertex: u32) -> &[AtomicU32] {
        let start = vertex as usize * self.stride;
        self.links.get(start..start + self.stride).unwrap_or_default()
    }

    /// Overwrites a vertex's links. The caller holds its lock.
    pub(super) fn set_links(&self, vertex: u32, links: impl Iterator<Item = u32>) {
        let ended = links.chain(std::iter::repeat(NONE));
        self.block(vertex).iter().zip(ended).for_each(|(slot, link)| slot.store(link, Ordering::Relaxed));
    }

    /// Adds a link if there is a free slot. The caller holds the vertex's lock.
    pub(super) fn add_link(&self, vertex: u32, link: u32) -> bool {
        let free = self.block(vertex).iter().find(|slot| slot.load(Ordering::Relaxed) == NONE);
        free.inspect(|slot| slot.store(link, Ordering::Relaxed)).is_some()
    }

    /// Replaces the last link of a vertex that has no free slot; returns the link that was there.
    pub(super) fn replace_last(&self, vertex: u32, link: u32) -> u32 {
        self.block(vertex).last().map_or(NONE, |slot| slot.swap(link, Ordering::Relaxed))
    }

    fn freeze(self) -> LayerParts {
        let links = self.links.into_iter().map(AtomicU32::into_inner).collect();
        LayerParts { rows: self.rows, below: self.below, links }
    }
}

impl Layer for Growing {
    fn len(&self) -> usize {
        self.locks.len()
    }

    #[inline]
    fn row(&self, vertex: u32) -> u32 {
        if self.rows.is_empty() {
            vertex
        } else {
            self.rows.get(vertex as usize).copied().unwrap_or_default()
        }
    }

    #[inline]
    fn links(&self, vertex: u32) -> impl Iterator<Item = u32> + '_ {
        self.block(vertex).iter().map(|slot| slot.load(Ordering::Relaxed)).take_while(|link| *link != NONE)
    }

    #[inline]
    fn prefetch_links(&self, vertex: u32) {
        prefetch(self.block(vertex), 4);
    }
}

/// What all threads share.
struct Builder<'a, M> {
    layers: Vec<Growing>,
    metric: &'a M,
    params: &'a Params,
}

/// What one thread reuses from row to row.
#[derive(Default)]
struct Hand {
    scratch: Scratch,
    /// Links chosen for the row at hand, per layer.
    chosen: Vec<Vec<(u32, u32)>>,
    candidates: Vec<(u32, u32)>,
    pruned: Vec<(u32, u32)>,
}

impl<M: Metric> Builder<'_, M> {
    /// The row of the entry: the first vertex of the top layer.
    fn entry_row(&self) -> Option<u32> {
        let top = self.layers.last()?;
        (top.len() > 0).then(|| top.row(0))
    }

    /// Takes rows one by one until there are none left.
    fn insert_all(&self, next: &AtomicU32, progress: &Progress) -> Result<(), Cancelled> {
        let mut hand = Hand::default();
        let entry = self.entry_row();
        loop {
            let row = next.fetch_add(1, Ordering::Relaxed);
            if row as usize >= self.metric.len() {
                return Ok(());
            }
            if Some(row) != entry {
                self.insert(row, &mut hand);
            }
            progress.advance(1)?;
        }
    }

    fn insert(&self, row: u32, hand: &mut Hand) {
        let top = self.choose_links(row, hand);
        let standing =
            || self.layers[..=top].iter().zip(0..).filter_map(|(l, i)| Some((l, i, l.vertex(row)?)));
        for (layer, number, vertex) in standing() {
            let _locked = layer.locks[vertex as usize].lock();
            layer.set_links(vertex, hand.chosen[number].iter().map(|(link, _)| *link));
        }
        for (layer, number, vertex) in standing() {
            let chosen = std::mem::take(&mut hand.chosen[number]);
            for (link, distance) in &chosen {
                self.link_back(layer, *link, (vertex, *distance), hand);
            }
            hand.chosen[number] = chosen;
        }
    }

    /// Walks down from the entry and chooses the row's links on each layer it stands in, into `hand.chosen`.
    /// Returns the highest of those layers.
    fn choose_links(&self, row: u32, hand: &mut Hand) -> usize {
        let mut probe = self.metric.from(row);
        let top = (1..self.layers.len()).take_while(|i| self.layers[*i].vertex(row).is_some()).count();
        hand.chosen.resize_with(self.layers.len(), Vec::new);
        let mut start = 0;
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let nearest = if number > top {
                let distance = probe.one(layer.row(start));
                descend(layer, &mut probe, (start, distance), &mut hand.scratch.fresh).0
            } else {
                hand.scratch.walk(layer, &mut probe, &[start], self.params.beam_width(), None);
                hand.candidates.clear();
                let me = layer.vertex(row);
                hand.candidates.extend(hand.scratch.beam.found().filter(|(vertex, _)| Some(*vertex) != me));
                let nearest = hand.candidates.first().map_or(start, |(vertex, _)| *vertex);
                select(layer, self.metric, &hand.candidates, layer.stride, &mut hand.chosen[number]);
                nearest
            };
            start = layer.below.get(nearest as usize).copied().unwrap_or(nearest);
        }
        top
    }

    /// Links `vertex` to `new`; a full block is chosen anew from its links and `new`.
    fn link_back(&self, layer: &Growing, vertex: u32, new: (u32, u32), hand: &mut Hand) {
        let _locked = layer.locks[vertex as usize].lock();
        if layer.add_link(vertex, new.0) {
            return;
        }
        let mut probe = self.metric.from(layer.row(vertex));
        hand.scratch.fresh.clear();
        hand.scratch.fresh.extend(layer.links(vertex));
        hand.candidates.clear();
        hand.candidates.push(new);
        probe.each(layer, &hand.scratch.fresh, |link, distance| hand.candidates.push((link, distance)));
        hand.candidates.sort_unstable_by_key(|(link, distance)| (*distance, *link));
        select(layer, self.metric, &hand.candidates, layer.stride, &mut hand.pruned);
        layer.set_links(vertex, hand.pruned.iter().map(|(link, _)| *link));
    }
}

/// Algorithm 4 of the paper: of `candidates`, nearest first, keeps at most `count` that are each nearer to the
/// query than to any kept one, so that links point in different directions.
fn select<M: Metric>(
    layer: &Growing,
    metric: &M,
    candidates: &[(u32, u32)],
    count: usize,
    kept: &mut Vec<(u32, u32)>,
) {
    kept.clear();
    for (vertex, distance) in candidates {
        if kept.len() == count {
            return;
        }
        let mut probe = metric.from(layer.row(*vertex));
        let (fours, rest) = kept.as_chunks::<4>();
        let is_shadowed = fours.iter().any(|four| {
            let rows = four.map(|(kept, _)| layer.row(kept));
            probe.four(rows).into_iter().any(|between| between < *distance)
        }) || rest.iter().any(|(kept, _)| probe.one(layer.row(*kept)) < *distance);
        if !is_shadowed {
            kept.push((*vertex, *distance));
        }
    }
}

//! One layer of a graph as walks see it, and distances from a query to its vertices.

use super::super::distance::Kernel;
use super::super::distance::prefetch::prefetch;
use super::super::neighbor::ordered;
use super::super::{Distance, Rows};
use super::visited::Visited;

/// A layer that can be walked: the builder's (atomics) and the frozen graph's (words).
pub(super) trait Layer {
    /// Number of vertices.
    fn len(&self) -> usize;

    /// The row of a vertex.
    fn row(&self, vertex: u32) -> u32;

    /// The vertices a vertex links to; none for a vertex that does not exist.
    fn links(&self, vertex: u32) -> impl Iterator<Item = u32> + '_;

    /// Asks for the memory of a vertex's links.
    fn prefetch_links(&self, vertex: u32);
}

/// Cache lines of a row asked for ahead; the processor's own prefetcher follows from there. Of 2, 6, 8, 12 and 24
/// lines (all of a 384-d row), 24 was a tenth slower and the others alike (2026-11, AVX2).
const LINES_AHEAD: usize = 8;

/// How far a walk's query is from rows.
pub(super) trait Measure {
    /// The distance to a row, as an integer that orders as distances do.
    fn one(&mut self, row: u32) -> u32;

    /// Calls `found` with each vertex of `fresh` and its distance.
    fn each<L: Layer>(&mut self, layer: &L, fresh: &[u32], found: impl FnMut(u32, u32));

    /// Calls `found` with the vertices that `vertex` of layer 0 links to and that were not met before; those that are hardly
    /// nearer than `bound` may be left out. `fresh` is room for them.
    fn expand<L: Layer>(
        &mut self,
        layer: &L,
        vertex: u32,
        bound: f32,
        visited: &mut Visited,
        fresh: &mut Vec<u32>,
        found: impl FnMut(u32, u32),
    );

    /// Asks for the memory that [`Measure::expand`] looks at first.
    fn prefetch<L: Layer>(&self, layer: &L, vertex: u32);
}

/// A query ready to be compared with rows; counts what it computes.
pub(super) struct Probe<'a> {
    rows: Rows<'a>,
    query: &'a [f32],
    kernel: Kernel,
    pub(super) distances: u64,
}

impl<'a> Probe<'a> {
    pub(super) fn new(rows: Rows<'a>, distance: Distance, query: &'a [f32]) -> Self {
        Self { rows, query, kernel: distance.kernel(), distances: 0 }
    }

    /// A probe for another query over the same rows; its count starts at zero.
    pub(super) fn with_query(&self, query: &'a [f32]) -> Self {
        Self { query, distances: 0, ..*self }
    }

    pub(super) fn rows(&self) -> Rows<'a> {
        self.rows
    }

    #[inline]
    pub(super) fn four(&mut self, rows: [u32; 4]) -> [u32; 4] {
        self.distances += 4;
        self.kernel.four(self.query, rows.map(|row| self.rows.row(row))).map(ordered)
    }

    /// Asks for the memory of a row.
    #[inline]
    pub(super) fn prefetch_row(&self, row: u32) {
        prefetch(self.rows.row(row), LINES_AHEAD);
    }
}

impl Measure for Probe<'_> {
    #[inline]
    fn one(&mut self, row: u32) -> u32 {
        self.distances += 1;
        ordered(self.kernel.one(self.query, self.rows.row(row)))
    }

    #[inline]
    fn each<L: Layer>(&mut self, layer: &L, fresh: &[u32], mut found: impl FnMut(u32, u32)) {
        let (fours, rest) = fresh.as_chunks::<4>();
        for (i, four) in fours.iter().enumerate() {
            if let Some(ahead) = fours.get(i + 1) {
                ahead.iter().for_each(|vertex| self.prefetch_row(layer.row(*vertex)));
            } else {
                rest.iter().for_each(|vertex| self.prefetch_row(layer.row(*vertex)));
            }
            let distances = self.four(four.map(|vertex| layer.row(vertex)));
            four.iter().zip(distances).for_each(|(vertex, distance)| found(*vertex, distance));
        }
        for vertex in rest {
            let distance = self.one(layer.row(*vertex));
            found(*vertex, distance);
        }
    }

    #[inline]
    fn expand<L: Layer>(
        &mut self,
        layer: &L,
        vertex: u32,
        _: f32,
        visited: &mut Visited,
        fresh: &mut Vec<u32>,
        found: impl FnMut(u32, u32),
    ) {
        fresh.clear();
        for link in layer.links(vertex) {
            if visited.first(link) {
                if fresh.len() < 4 {
                    self.prefetch_row(layer.row(link));
                }
                fresh.push(link);
            }
        }
        self.each(layer, fresh, found);
    }

    #[inline]
    fn prefetch<L: Layer>(&self, layer: &L, vertex: u32) {
        layer.prefetch_links(vertex);
    }
}

/// Walks from `start` to a vertex that has no nearer neighbour, and says how far it is.
pub(super) fn descend<L: Layer, M: Measure>(
    layer: &L,
    probe: &mut M,
    start: (u32, u32),
    fresh: &mut Vec<u32>,
) -> (u32, u32) {
    let (mut vertex, mut distance) = start;
    loop {
        fresh.clear();
        fresh.extend(layer.links(vertex).filter(|link| (*link as usize) < layer.len()));
        let before = vertex;
        probe.each(layer, fresh, |link, its| {
            if its < distance {
                (vertex, distance) = (link, its);
            }
        });
        if vertex == before {
            return (vertex, distance);
        }
    }
}

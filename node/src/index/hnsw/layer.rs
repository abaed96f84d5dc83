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

/// How far a walk's query is from rows, as integers that order as distances do.
pub(super) trait Measure {
    /// The distance to a row.
    fn one(&mut self, row: u32) -> u32;

    /// The distances to four rows.
    fn four(&mut self, rows: [u32; 4]) -> [u32; 4];

    /// Asks for the memory of a row.
    fn prefetch_row(&self, row: u32);

    /// Calls `found` with each vertex of `fresh` and its distance.
    #[inline]
    fn each<L: Layer>(&mut self, layer: &L, fresh: &[u32], mut found: impl FnMut(u32, u32)) {
        let (fours, rest) = fresh.as_chunks::<4>();
        for (i, four) in fours.iter().enumerate() {
            let ahead = fours.get(i + 1).map_or(rest, |four| four);
            ahead.iter().for_each(|vertex| self.prefetch_row(layer.row(*vertex)));
            let distances = self.four(four.map(|vertex| layer.row(vertex)));
            four.iter().zip(distances).for_each(|(vertex, distance)| found(*vertex, distance));
        }
        for vertex in rest {
            let distance = self.one(layer.row(*vertex));
            found(*vertex, distance);
        }
    }

    /// Vertices that a walk expands together, at most: their memory is waited for once. Some of them would not have been expanded
    /// after what the others link to.
    const TOGETHER: usize = 1;

    /// Calls `found` with the vertices that `vertices` of layer 0 link to and that were not met before; those that are hardly
    /// nearer than `bound` may be left out. `fresh` is room for them.
    #[inline]
    fn expand<L: Layer>(
        &mut self,
        layer: &L,
        vertices: &[u32],
        _bound: f32,
        visited: &mut Visited,
        fresh: &mut Vec<u32>,
        found: impl FnMut(u32, u32),
    ) {
        fresh.clear();
        for link in vertices.iter().flat_map(|vertex| layer.links(*vertex)) {
            if visited.first(link) {
                if fresh.len() < 4 {
                    self.prefetch_row(layer.row(link));
                }
                fresh.push(link);
            }
        }
        self.each(layer, fresh, found);
    }

    /// Asks for the memory that [`Measure::expand`] looks at first.
    #[inline]
    fn prefetch<L: Layer>(&self, layer: &L, vertex: u32) {
        layer.prefetch_links(vertex);
    }
}

/// How far rows are from each other: what a build needs.
pub(super) trait Metric: Sync {
    /// A row as a walk's query.
    type From<'a>: Measure
    where
        Self: 'a;

    /// Measures from a row.
    fn from(&self, row: u32) -> Self::From<'_>;

    /// Number of rows.
    fn len(&self) -> usize;
}

/// By whole vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByRows<'a>(pub Rows<'a>, pub Distance);

impl Metric for ByRows<'_> {
    type From<'p>
        = Probe<'p>
    where
        Self: 'p;

    fn from(&self, row: u32) -> Probe<'_> {
        Probe::new(self.0, self.1, self.0.row(row))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
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
}

impl Measure for Probe<'_> {
    #[inline]
    fn one(&mut self, row: u32) -> u32 {
        self.distances += 1;
        ordered(self.kernel.one(self.query, self.rows.row(row)))
    }

    #[inline]
    fn four(&mut self, rows: [u32; 4]) -> [u32; 4] {
        self.distances += 4;
        self.kernel.four(self.query, rows.map(|row| self.rows.row(row))).map(ordered)
    }

    #[inline]
    fn prefetch_row(&self, row: u32) {
        prefetch(self.rows.row(row), LINES_AHEAD);
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

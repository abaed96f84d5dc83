//! A navigable small-world graph over a frozen block of rows (Malkov & Yashunin, 2016).
//!
//! Every row is a **vertex** of layer 0; about one in `m` of each layer's vertices stands in the layer above. A
//! search walks greedily down from the entry vertex of the top layer, then explores layer 0 with a beam of the
//! `ef` nearest vertices seen.
//!
//! * [`build`] inserts rows in parallel: links are atomics read without locks and written under one small lock
//!   per vertex, and layers are drawn beforehand from the seed, so the entry vertex never changes. One thread
//!   builds the same graph every time.
//! * [`Graph`] is the frozen form: a single run of `u32` words, the same in memory, in a file and in a map.
//!   Layer 0 has a fixed block of `2 m` ids per row; an upper layer numbers its own vertices densely, and links
//!   them by those numbers, so there is no table from row to block.
//! * Searching takes its scratch (visited marks, beam) from a bounded pool that the graph owns: a search
//!   allocates only its answer.
//!
//! **Every row is reachable.** After the insertions a repair pass walks layer 0 from the entry and splices in any
//! vertex that pruning cut off, and each search of layer 0 starts at the entry as well as where the descent
//! ended. So a search returns `min(k, accepted rows)` neighbours — how near they are is what `ef` buys.
//!
//! What it does not do: insert or delete after the build (segments are frozen; deleted rows are not accepted),
//! keep vectors, or give up early under a selective filter — a search that finds fewer than `ef` accepted rows
//! goes through the whole graph, so the planner scans exactly instead when few rows are accepted.

mod beam;
mod build;
mod coded;
mod format;
mod layer;
mod repair;
mod search;
mod visited;

#[cfg(test)]
mod tests;

use super::{Accept, Backing, Cancelled, Distance, Effort, Neighbor, Progress, Rows, Stats, VectorIndex};

pub use super::damage::Damage;
pub use build::{build, build_by_codes};
pub use format::Graph;
#[cfg(any(test, feature = "fuzz"))]
pub use format::restamp;

/// How to build a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Links of a vertex: at most `m` on the upper layers and `2 m` on layer 0. A new vertex may fill its block at
    /// once: on layer 0 of 100,000 x 384, choosing up to `2 m` rather than `m` took 7 % fewer distances at recall
    /// 0.969 and 21 % fewer at 0.99 (2026-11). Values outside 2 to 128 are brought inside.
    pub m: u16,
    /// Width of the beam that looks for a new vertex's neighbours; at least `m` is used.
    pub ef_construction: u16,
    /// Draws the layers of the vertices.
    pub seed: u64,
}

impl Params {
    /// The seed of the presets.
    pub const SEED: u64 = 0x666c_6f74_696c_6c61;

    /// `m` inside its bounds.
    fn links(&self) -> usize {
        usize::from(self.m.clamp(2, 128))
    }

    /// The most links that a vertex of layer 0 has.
    pub(super) fn links_max(&self) -> usize {
        2 * self.links()
    }

    fn beam_width(&self) -> usize {
        usize::from(self.ef_construction).max(self.links())
    }
}

impl Default for Params {
    fn default() -> Self {
        super::Preset::Balanced.params()
    }
}

/// The end of a vertex's links.
const NONE: u32 = u32::MAX;

/// The most layers a graph has, layer 0 included.
const LAYERS_MAX: usize = 16;

impl VectorIndex for Graph {
    type Params = Params;

    fn build(
        rows: Rows<'_>,
        distance: Distance,
        params: &Params,
        threads: usize,
        progress: &Progress,
    ) -> Result<Self, Cancelled> {
        build(rows, distance, params, threads, progress)
    }

    fn search(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        k: usize,
        effort: impl Into<Effort>,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        Graph::search(self, rows, distance, query, k, effort.into().width, accept, stats)
    }

    fn len(&self) -> usize {
        Graph::len(self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        Graph::to_bytes(self)
    }

    fn open(backing: Backing) -> Result<Self, Damage> {
        Graph::open(backing)
    }
}

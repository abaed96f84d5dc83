//! The index layer: which rows of a block of vectors are nearest to a query.
//!
//! This is the lowest layer of the node and it is pure computation. It sees rows (a contiguous, row-major slice of `f32`,
//! or of narrower values packed in as many words), a [`Distance`], a query and an [`Accept`] that says which rows count;
//! it answers [`Neighbor`]s, nearest first. Records, keys, files, Raft and time belong to the layers above.
//!
//! * [`scan`] and [`scan_bits`] are exact: they look at every accepted row.
//! * [`lists`] and [`inverted`] are exact too, over records that have several rows each, or a sparse one.
//! * [`hnsw`] is approximate: a navigable graph that looks at about a thousand rows of a hundred thousand. It
//!   is built once over a frozen block of rows and never changes; it is opened in place over the bytes of a file.
//! * [`lsh`] is approximate: hashes in buckets, quick to build and small, less exact at the same speed.
//! * [`vector_cache`] keeps what of the rows is read from disk.
//! * [`VectorIndex`] is what all have in common, and `index::exam` is the examination each of them sits.
//!
//! Invariants:
//!
//! * **One order.** Distances are "smaller is nearer". Neighbours are ordered by distance, then by row; NaN
//!   sorts behind everything. The same rows, query and accept give the same answer, ties included.
//! * **Rows are not owned.** Vectors stay where storage keeps them; an index only holds row numbers, so the same
//!   rows must be handed to `build` and to `search`.
//! * **Bytes are not trusted.** Opening checks lengths, checksums and every id; a search over a damaged or
//!   mismatched block may answer badly but never panics and never reads out of bounds.
//! * **`unsafe` only in [`distance`]'s kernels**, each block with its reason.
//!
//! What it does not do: choose between exact and graph (the query planner does), normalise vectors for
//! [`Distance::Cosine`] (the machine does, once, on upsert), or spread a search over threads.

pub mod accept;
pub mod any;
pub mod bitset;
pub mod calibration;
pub mod codes;
pub mod damage;
pub mod distance;
pub mod flat;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod hnsw;
pub mod inverted;
pub mod lists;
pub mod lsh;
pub mod neighbor;
pub mod preset;
pub mod progress;
pub mod quantized;
pub mod rotation;
pub mod rows;
pub mod vector_cache;

#[cfg(test)]
mod exam;
#[cfg(test)]
mod sample;

use std::sync::Arc;

pub use accept::Accept;
pub use any::AnyIndex;
pub use bitset::Bitset;
pub use calibration::Calibration;
pub use codes::Codes;
pub use codes::packed::Packed;
pub use damage::Damage;
pub use distance::{Distance, Measure};
pub use flat::{Flat, scan, scan_bits};
pub use hnsw::Graph;
pub use inverted::Inverted;
pub use lists::Lists;
pub use lsh::Lsh;
pub use neighbor::{Neighbor, TopK};
pub use preset::Preset;
pub use progress::{Cancelled, Progress};
pub use quantized::{Quantization, QuantizedGraph};
pub use rows::{MAX_ROWS, Ragged, Rows};

/// Bytes that an index is opened over in place: a memory map, a `Vec<u8>`, a `Bytes`.
pub type Backing = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a search did. Searches add to it, so one value can collect several segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Vertices whose neighbours were looked at (rows, for an exact scan).
    pub visited: u64,
    /// Distances computed.
    pub distances: u64,
}

/// How much a search may do for the rows it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Candidates that a walk keeps, or what stands for them in other kinds; at least as many as rows are wanted.
    pub width: usize,
    /// Of what codes tell, so many candidates are ordered by their vectors; `None`: as many as the codes need.
    pub rescored: Option<usize>,
}

impl From<usize> for Effort {
    fn from(width: usize) -> Effort {
        Effort { width, rescored: None }
    }
}

/// What every kind of vector index can do.
///
/// An index is built once over a frozen block of rows, serialised, and opened again over its bytes. The rows
/// themselves are passed to every search: the index does not keep them.
pub trait VectorIndex: Sized + Send + Sync {
    /// How to build it.
    type Params: Default;

    /// Builds the index over `rows` with up to `threads` threads (at least one is used).
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end; what was built so far is dropped.
    fn build(
        rows: Rows<'_>,
        distance: Distance,
        params: &Self::Params,
        threads: usize,
        progress: &Progress,
    ) -> Result<Self, Cancelled>;

    /// The `k` nearest accepted rows, nearest first. `effort` is the index's own knob (see [`Effort`]); more
    /// effort gives more recall, and an exact index ignores it. `rows` must be the rows it was built over.
    #[allow(clippy::too_many_arguments)]
    fn search(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        k: usize,
        effort: impl Into<Effort>,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor>;

    /// Number of rows it was built over.
    fn len(&self) -> usize;

    /// True when it was built over no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The index as bytes that [`VectorIndex::open`] takes back: versioned, checksummed, little endian.
    fn to_bytes(&self) -> Vec<u8>;

    /// Opens an index over bytes, in place where their alignment allows.
    ///
    /// # Errors
    /// [`Damage`] says what is wrong with the bytes; the caller rebuilds the index from its rows.
    fn open(backing: Backing) -> Result<Self, Damage>;
}

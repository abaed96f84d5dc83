//! What a segment needs to know of a collection's vectors: by ordinal, in the index layer's terms.

use std::sync::Arc;

use flotilla_proto::schema::{self, CollectionSpec, Hnsw, IndexKind, VectorSpec};
use serde::{Deserialize, Serialize};

use super::vectors;
use crate::index::{Distance, Quantization, any, hnsw, lsh, quantized};

/// Shorter vectors are read as quickly as their codes, and one bit of each value says little of them.
const QUANTIZED_DIMS_MIN: u32 = 64;

/// One named vector of the collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VectorShape {
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: VectorSpec,
}

/// All of them, by ordinal.
pub(super) type Shapes = Arc<[VectorShape]>;

/// The collection's vectors, by ordinal.
pub(super) fn shapes(spec: &CollectionSpec) -> Shapes {
    let shape = |(name, spec): (&String, &VectorSpec)| VectorShape { name: name.clone(), spec: *spec };
    spec.vectors.iter().map(shape).collect()
}

impl VectorShape {
    /// Words of one row of its column.
    pub fn words(&self) -> usize {
        vectors::words(&self.spec)
    }

    /// The distance between stored vectors.
    pub fn distance(&self) -> Distance {
        vectors::distance(&self.spec)
    }

    /// Whether the two hold the same values in the same way; how those are searched may differ.
    pub fn is_like(&self, other: &VectorShape) -> bool {
        (&self.name, self.spec.dims, self.spec.form) == (&other.name, other.spec.dims, other.spec.form)
    }

    /// Whether the vectors may be more than memory holds: searches look at small codes, and read a few scattered vectors. Reading
    /// ahead of those would throw out of memory what was just read (2026-11: 100,000 x 384 in 138 MiB answered nothing in minutes).
    pub fn stays_on_disk(&self) -> bool {
        let small = [Some(schema::Quantization::Binary), Some(schema::Quantization::Product)];
        self.spec.has_codes() && small.contains(&self.spec.index.quantization())
    }

    /// Bytes for each row while its graph is built: the graph, what building takes beside it, the codes, and all of it once more as it
    /// is written.
    pub fn build_bytes(&self) -> u64 {
        let dims = u64::from(self.spec.dims);
        match self.graph() {
            None => 0,
            Some(any::Params::Lsh(_)) => 32,
            Some(any::Params::Graph(params)) => {
                let codes = match params.quantization {
                    Quantization::None => 0,
                    Quantization::Scalar => dims + dims / 8,
                    Quantization::Binary | Quantization::Product => dims / 8,
                };
                24 * u64::from(params.graph.m) + 2 * codes
            }
        }
    }

    /// How to build its graph, or its hashes; `None` for a vector that is scanned.
    pub fn graph(&self) -> Option<any::Params> {
        if let IndexKind::Lsh(schema::Lsh { coarse, fine }) = self.spec.index {
            return Some(any::Params::Lsh(lsh::Params { coarse, fine, ..lsh::Params::default() }));
        }
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let Hnsw { m, ef_construction, .. } = self.spec.index.hnsw()?;
        let graph =
            hnsw::Params { m: short(*m), ef_construction: short(*ef_construction), seed: hnsw::Params::SEED };
        let quantization = match self.spec.index.quantization() {
            _ if self.spec.dims < QUANTIZED_DIMS_MIN || !self.spec.has_codes() => Quantization::None,
            Some(schema::Quantization::Scalar) => Quantization::Scalar,
            Some(schema::Quantization::Binary) => Quantization::Binary,
            Some(schema::Quantization::Product) => Quantization::Product,
            None => Quantization::None,
        };
        Some(any::Params::Graph(quantized::Params { graph, quantization }))
    }
}

/// The ordinal of a name.
pub(super) fn ordinal(shapes: &[VectorShape], name: &str) -> Option<usize> {
    shapes.binary_search_by(|shape| shape.name.as_str().cmp(name)).ok()
}

//! What a segment needs to know of a collection's vectors: by ordinal, in the index layer's terms.

use std::sync::Arc;

use flotilla_proto::schema::{self, CollectionSpec, Hnsw, IndexKind};
use serde::{Deserialize, Serialize};

use crate::index::{Distance, Quantization, hnsw, quantized};

/// Shorter vectors are read as quickly as their codes, and one bit of each value says little of them.
const QUANTIZED_DIMS_MIN: u32 = 64;

/// One named vector of the collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VectorShape {
    /// Its name.
    pub name: String,
    /// Components.
    pub dims: u32,
    /// How near two of them are.
    pub distance: schema::Distance,
    /// How they are searched.
    pub index: IndexKind,
}

/// All of them, by ordinal.
pub(super) type Shapes = Arc<[VectorShape]>;

/// The collection's vectors, by ordinal.
pub(super) fn shapes(spec: &CollectionSpec) -> Shapes {
    let shape = |(name, vector): (&String, &schema::VectorSpec)| VectorShape {
        name: name.clone(),
        dims: vector.dims,
        distance: vector.distance,
        index: vector.index,
    };
    spec.vectors.iter().map(shape).collect()
}

impl VectorShape {
    /// Components.
    pub fn dims(&self) -> usize {
        self.dims as usize
    }

    /// The distance between stored vectors.
    pub fn distance(&self) -> Distance {
        match self.distance {
            schema::Distance::Cosine => Distance::Cosine,
            schema::Distance::Dot => Distance::Dot,
            schema::Distance::Euclidean => Distance::Euclidean,
        }
    }

    /// How to build its graph; `None` for a vector that is scanned.
    pub fn graph(&self) -> Option<quantized::Params> {
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let Hnsw { m, ef_construction, .. } = self.index.hnsw()?;
        let graph =
            hnsw::Params { m: short(*m), ef_construction: short(*ef_construction), seed: hnsw::Params::SEED };
        let quantization = match self.index.quantization() {
            _ if self.dims < QUANTIZED_DIMS_MIN => Quantization::None,
            Some(schema::Quantization::Scalar) => Quantization::Scalar,
            Some(schema::Quantization::Binary) => Quantization::Binary,
            None => Quantization::None,
        };
        Some(quantized::Params { graph, quantization })
    }
}

/// The ordinal of a name.
pub(super) fn ordinal(shapes: &[VectorShape], name: &str) -> Option<usize> {
    shapes.binary_search_by(|shape| shape.name.as_str().cmp(name)).ok()
}

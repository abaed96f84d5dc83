//! What a segment needs to know of a collection's vectors: by ordinal, in the index layer's terms.

use std::sync::Arc;

use flotilla_proto::schema::{self, CollectionSpec, Hnsw, IndexKind};
use serde::{Deserialize, Serialize};

use crate::index::{Distance, hnsw};

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
    pub fn graph(&self) -> Option<hnsw::Params> {
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        match self.index {
            IndexKind::Hnsw(Hnsw { m, ef_construction, .. }) => Some(hnsw::Params {
                m: short(m),
                ef_construction: short(ef_construction),
                seed: hnsw::Params::SEED,
            }),
            IndexKind::Flat => None,
        }
    }
}

/// The ordinal of a name.
pub(super) fn ordinal(shapes: &[VectorShape], name: &str) -> Option<usize> {
    shapes.binary_search_by(|shape| shape.name.as_str().cmp(name)).ok()
}

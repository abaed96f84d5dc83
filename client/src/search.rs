//! Search.

use flotilla_proto::convert::filter_to_wire;
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Record;
use flotilla_proto::v1;

use crate::records::one;
use crate::{Client, Error, Read, Result};

/// A search, built up from its vector.
#[derive(Clone, Debug, Default)]
pub struct Search {
    wire: v1::SearchRequest,
    read: Read,
}

impl Search {
    /// The ten records nearest to `vector`, with keys and scores alone.
    pub fn new(vector: Vec<f32>) -> Search {
        Search {
            wire: v1::SearchRequest { vector: Some(v1::Vector { values: vector }), ..Default::default() },
            read: Read::default(),
        }
    }

    /// By the vector of this name; by default the only one, or `default`.
    pub fn vector_name(mut self, name: &str) -> Search {
        self.wire.vector_name = name.to_owned();
        self
    }

    /// Only among what passes `filter`.
    pub fn filter(mut self, filter: Filter) -> Search {
        self.wire.filter = Some(filter_to_wire(&filter));
        self
    }

    /// So many hits: 1 to 10,000.
    pub fn limit(mut self, limit: u32) -> Search {
        self.wire.limit = Some(limit);
        self
    }

    /// Leaves out the first so many; with the limit, at most 10,000.
    pub fn offset(mut self, offset: u32) -> Search {
        self.wire.offset = offset;
        self
    }

    /// With the payload of each hit.
    pub fn with_payload(mut self) -> Search {
        self.wire.with_payload = true;
        self
    }

    /// With the vectors of each hit.
    pub fn with_vectors(mut self) -> Search {
        self.wire.with_vectors = true;
        self
    }

    /// Candidates kept while searching: more is slower and more exact.
    pub fn ef(mut self, ef: u32) -> Search {
        self.wire.ef = ef;
        self
    }

    /// Scans every vector instead of the graph.
    pub fn exact(mut self) -> Search {
        self.wire.exact = true;
        self
    }

    /// Leaves out hits that score below: the cosine similarity, the dot product, or minus the euclidean distance.
    pub fn score_threshold(mut self, score: f32) -> Search {
        self.wire.score_threshold = Some(score);
        self
    }

    /// Where and how fresh to read, as far as this read says otherwise than its client.
    pub fn read(mut self, read: Read) -> Search {
        self.read = read;
        self
    }

    /// Tells how each partition answered.
    pub fn explain(mut self) -> Search {
        self.wire.explain = true;
        self
    }
}

/// A record found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The record, with what was asked for.
    pub record: Record,
    /// Larger is better; what it is depends on the vector's distance.
    pub score: f32,
}

/// The answer of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// By score, ties by key.
    pub hits: Vec<Hit>,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
    /// How each partition answered, if asked.
    pub plans: Vec<v1::PartitionPlan>,
}

impl Client {
    /// The records nearest to a vector.
    pub async fn search(&self, collection: &str, search: Search) -> Result<Found> {
        let read = self.read(collection, search.read);
        let message = v1::SearchRequest {
            collection: collection.to_owned(),
            read: Some(read.to_wire()),
            ..search.wire
        };
        let send = |channel, request| async move { Client::searching(channel).search(request).await };
        let answer = self.repeated(message, read.preferred(), send).await?;
        let hit = |hit: v1::Hit| {
            let record = hit.record.ok_or_else(|| Error::nonsense("a hit holds no record"))?;
            Ok(Hit { record: one(record)?, score: hit.score })
        };
        Ok(Found {
            hits: answer.hits.into_iter().map(hit).collect::<Result<_>>()?,
            coverage: answer.coverage.unwrap_or_default(),
            plans: answer.plans,
        })
    }
}

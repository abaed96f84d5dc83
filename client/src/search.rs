//! Search.

use std::collections::BTreeMap;

use flotilla_proto::convert::{filter_to_wire, key_to_wire, value_from_wire, vector_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Record, Value, Vector};
use flotilla_proto::v1;

use crate::aggregate::{Aggregation, Figure, figures};
use crate::records::one;
use crate::{Client, Error, Read, Result};

/// What to look for, told by examples: at most 100 together, one positive at least. Records named by key are not
/// found.
#[derive(Clone, Debug, Default)]
pub struct Recommend {
    wire: v1::Recommend,
}

impl Recommend {
    /// No examples yet.
    pub fn new() -> Recommend {
        Recommend::default()
    }

    /// Like this record.
    pub fn positive(mut self, key: impl Into<Key>) -> Recommend {
        self.wire.positive.push(example(v1::example::Kind::Key(key_to_wire(&key.into()))));
        self
    }

    /// Like this vector.
    pub fn positive_vector(mut self, values: Vec<f32>) -> Recommend {
        self.wire.positive.push(example(v1::example::Kind::Vector(vector_to_wire(Vector::Dense(values)))));
        self
    }

    /// Unlike this record.
    pub fn negative(mut self, key: impl Into<Key>) -> Recommend {
        self.wire.negative.push(example(v1::example::Kind::Key(key_to_wire(&key.into()))));
        self
    }

    /// Unlike this vector.
    pub fn negative_vector(mut self, values: Vec<f32>) -> Recommend {
        self.wire.negative.push(example(v1::example::Kind::Vector(vector_to_wire(Vector::Dense(values)))));
        self
    }
}

/// Words to look for in a field declared as text: records with at least one of them.
#[derive(Clone, Debug, Default)]
pub struct TextQuery {
    wire: v1::TextQuery,
}

impl TextQuery {
    /// The words of `query` in `field`.
    pub fn new(field: &str, query: &str) -> TextQuery {
        let (field, query) = (field.to_owned(), query.to_owned());
        TextQuery { wire: v1::TextQuery { field, query, ..Default::default() } }
    }

    /// Only records with all of the words.
    pub fn all(mut self) -> TextQuery {
        self.wire.operator = v1::TextOperator::All.into();
        self
    }

    /// Only records with the words in a row.
    pub fn phrase(mut self) -> TextQuery {
        self.wire.phrase = true;
        self
    }

    /// The last word stands for all that begin with it.
    pub fn prefix_last(mut self) -> TextQuery {
        self.wire.prefix_last = true;
        self
    }

    /// A word stands for those at most so many edits away too: 0 to 2, not with a phrase.
    pub fn fuzzy_edits(mut self, edits: u32) -> TextQuery {
        self.wire.fuzzy_edits = edits;
        self
    }
}

/// How hits by vector and hits by words become one list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fusion {
    wire: v1::Fusion,
}

impl Fusion {
    /// By their ranks in both.
    pub fn rrf() -> Fusion {
        Fusion::default()
    }

    /// By their scores in both, each list's brought to 0 to 1 and weighed: 0 to 1,000,000, not both 0.
    pub fn weighted(vector_weight: f32, text_weight: f32) -> Fusion {
        let (vector_weight, text_weight) = (Some(vector_weight), Some(text_weight));
        let kind = v1::FusionKind::Weighted.into();
        Fusion { wire: v1::Fusion { kind, vector_weight, text_weight, candidates: 0 } }
    }

    /// So many hits of each search: offset and limit together to 10,000; by default 100, or those if they are more.
    pub fn candidates(mut self, candidates: u32) -> Fusion {
        self.wire.candidates = candidates;
        self
    }
}

/// How words found are shown.
#[derive(Clone, Debug, Default)]
pub struct Highlight {
    wire: v1::Highlight,
}

impl Highlight {
    /// A passage of at most 150 characters, with `<em>` and `</em>` around each word found.
    pub fn new() -> Highlight {
        Highlight::default()
    }

    /// So many passages, at most: 1 to 100.
    pub fn fragments(mut self, fragments: u32) -> Highlight {
        self.wire.fragments = fragments;
        self
    }

    /// Passages of so many characters, at most: 1 to 10,000.
    pub fn length(mut self, chars: u32) -> Highlight {
        self.wire.length = chars;
        self
    }

    /// With these before and behind each word found: at most 64 bytes each.
    pub fn marks(mut self, before: &str, after: &str) -> Highlight {
        (self.wire.before, self.wire.after) = (Some(before.to_owned()), Some(after.to_owned()));
        self
    }
}

fn example(kind: v1::example::Kind) -> v1::Example {
    v1::Example { kind: Some(kind) }
}

/// A search, built up from its vector, its examples or its words.
#[derive(Clone, Debug, Default)]
pub struct Search {
    wire: v1::SearchRequest,
    read: Read,
}

impl Search {
    /// The ten records nearest to `vector`, with keys and scores alone.
    pub fn new(vector: impl Into<Vector>) -> Search {
        let vector = Some(vector_to_wire(vector.into()));
        Search { wire: v1::SearchRequest { vector, ..Default::default() }, read: Read::default() }
    }

    /// The ten records that are nearest to what the examples come to: see the README for how.
    pub fn recommend(examples: Recommend) -> Search {
        Search {
            wire: v1::SearchRequest { recommend: Some(examples.wire), ..Default::default() },
            read: Read::default(),
        }
    }

    /// The ten records that score best for the words of `text`.
    pub fn text(text: TextQuery) -> Search {
        Search {
            wire: v1::SearchRequest { text: Some(text.wire), ..Default::default() },
            read: Read::default(),
        }
    }

    /// For the words of `text` too: hits of both searches as one list.
    pub fn with_text(mut self, text: TextQuery, fusion: Fusion) -> Search {
        self.wire.text = Some(text.wire);
        self.wire.fusion = Some(fusion.wire);
        self
    }

    /// Over the records of the hits, this figure or these groups too: [`Found::results`].
    pub fn aggregate(mut self, name: &str, aggregation: Aggregation) -> Search {
        self.wire.aggregations.insert(name.to_owned(), aggregation.into_wire());
        self
    }

    /// With these fields of the payload alone.
    pub fn fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Search {
        self.wire.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// With passages that show the words found: [`Hit::highlights`].
    pub fn highlight(mut self, highlight: Highlight) -> Search {
        self.wire.highlight = Some(highlight.wire);
        self
    }

    /// Hits in groups of one value of `field` each: [`Found::groups`] instead of [`Found::hits`]. The limit counts
    /// groups then; limit times size at most 10,000. Not with an offset.
    pub fn group_by(mut self, field: &str, size: u32) -> Search {
        self.wire.group_by = field.to_owned();
        self.wire.group_size = size;
        self
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

    /// Finds this share of the nearest records, above 0 to 1, with as much effort as that takes: instead of [`Search::ef`].
    pub fn target_recall(mut self, share: f32) -> Search {
        self.wire.target_recall = Some(share);
        self
    }

    /// Of a vector with quantization: so many times the limit, 1 to 100, candidates are compared by whole vectors in the end, instead of
    /// as many as its codes need. More finds more; fewer reads less where vectors lie on disk.
    pub fn oversampling(mut self, times: f32) -> Search {
        self.wire.oversampling = Some(times);
        self
    }

    /// Scans every vector instead of the graph.
    pub fn exact(mut self) -> Search {
        self.wire.exact = true;
        self
    }

    /// Leaves out hits that score below: the cosine similarity, the dot product, or minus the euclidean distance; for words BM25,
    /// for both what the fusion makes of them.
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
    /// Larger is better; what it is depends on the vector's distance, or on words and fusion.
    pub score: f32,
    /// Passages that show the words found, if asked for: the best first.
    pub highlights: Vec<String>,
}

/// The hits that share a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The value.
    pub value: Value,
    /// By score, ties by key.
    pub hits: Vec<Hit>,
}

/// The answer of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// By score, ties by key; none in groups.
    pub hits: Vec<Hit>,
    /// The groups, if asked for: by their best hits.
    pub groups: Vec<Group>,
    /// Whether a partition gave up looking for groups: there may be more of them, or more in them.
    pub groups_cut: bool,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
    /// How each partition answered, if asked.
    pub plans: Vec<v1::PartitionPlan>,
    /// What the words weigh, if asked.
    pub text_plan: Option<v1::TextPlan>,
    /// Figures over the hits, by the names that were asked for.
    pub results: BTreeMap<String, Figure>,
}

impl Client {
    /// The records nearest to a vector, or to what examples come to, or with the words of a query, or both.
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
            Ok(Hit { record: one(record)?, score: hit.score, highlights: hit.highlights })
        };
        let group = |group: v1::Group| {
            let value = value_from_wire("groups.value", group.value.unwrap_or_default());
            Ok(Group {
                value: value.map_err(Error::nonsense)?,
                hits: group.hits.into_iter().map(hit).collect::<Result<_>>()?,
            })
        };
        Ok(Found {
            hits: answer.hits.into_iter().map(hit).collect::<Result<_>>()?,
            groups: answer.groups.into_iter().map(group).collect::<Result<_>>()?,
            groups_cut: answer.groups_cut,
            coverage: answer.coverage.unwrap_or_default(),
            plans: answer.plans,
            text_plan: answer.text_plan,
            results: figures(answer.results)?,
        })
    }
}

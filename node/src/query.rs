//! Reading one partition: which records are nearest, which pass, how many, and which come next by key.
//!
//! A read holds a frozen view, a list of segments ([`SegmentView`]), and nothing here knows where it came from: no Raft, no
//! wire. A **search** goes through three phases, each in a file of its own:
//!
//! ```text
//! plan (per segment: exact, codes, graph, filtered graph)  ->  execute  ->  merge (distance, then key)
//! ```
//!
//! A search for **words** ([`text`]) has one plan, and its distance is minus its score. A search in **groups** ([`group`]) is a
//! few such searches, each narrowed by what the ones before found.
//!
//! An **aggregation** ([`aggregate`]) reads the rows that pass field by field, and counts each segment on its own.
//!
//! **Invariants.**
//! * A filter is evaluated once per segment, to the set of live rows that pass; every plan reads the same set, so plans
//!   differ in cost and recall, never in which records they may return.
//! * A search never returns fewer than `min(limit, records that pass and have the vector)`: where a graph came up short,
//!   its segment is searched again exactly.
//! * Hits are ordered by distance, then key; a NaN distance is further than any other. Keys, not rows, break ties,
//!   because replicas number their rows differently.
//!
//! **What it does not do.** It does not choose the view, read payloads of hits, or convert distances to scores.

pub mod aggregate;
mod curtain;
mod execute;
mod group;
mod merge;
mod order;
mod plan;
mod scan;
mod text;

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

use std::time::Duration;

use flotilla_proto::filter::Compiled;
use flotilla_proto::record::Key;
use flotilla_proto::schema::{CollectionSpec, Form};

use crate::storage::{Fault, SegmentView, vectors};

pub use self::curtain::{Curtain, Shown};
pub use self::group::{Group, Grouping, grouped};
pub use self::merge::PartialHit;
use self::merge::Placed;
pub use self::order::ordered;
pub use self::plan::Step;
pub use self::scan::{ROWS_AHEAD, Stretch, scan};
pub use self::text::{TextSearch, Weighing, Weights, weigh};

/// What to search for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// The vector's name, as the spec has it.
    pub vector: &'a str,
    /// The words of the query, as [`vectors::query`] packs them.
    pub query: &'a [f32],
    /// Only records that pass.
    pub filter: Option<&'a Compiled>,
    /// Hits wanted, at most.
    pub limit: usize,
    /// Candidates that a walk of the graph keeps; at least `limit` are kept.
    pub ef: usize,
    /// The share of the nearest records that is to be found; where it is set, it takes the place of `ef`.
    pub target_recall: Option<f32>,
    /// So many times `limit` candidates by codes are ordered by their vectors; `None`: as many as the codes need.
    pub oversampling: Option<f32>,
    /// Scan instead of walking the graph.
    pub exact: bool,
    /// Only hits at most this far.
    pub max_distance: Option<f32>,
    /// Records that are not to be found.
    pub without: &'a [Key],
    /// Words to search for, instead of the vector.
    pub text: Option<&'a TextSearch>,
}

/// What a search found, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The hits: nearest first, ties by key.
    pub hits: Vec<PartialHit>,
    /// The groups of a grouped search, which has no other hits: by their best hits, ties by group.
    pub groups: Vec<Group>,
    /// Whether a grouped search gave up: there may be more groups, or more in them.
    pub is_cut: bool,
    /// How.
    pub plan: PlanReport,
}

/// How a search was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanReport {
    /// How each segment was searched, in the view's order, one round after the other. A graph that came up short
    /// stands as [`Step::Exact`].
    pub steps: Vec<Step>,
    /// Searches of the view: several for a grouped one. The figures are their sums.
    pub rounds: u64,
    /// Segments of the view.
    pub segments: u64,
    /// Distances computed.
    pub distances: u64,
    /// Rows scanned for want of a graph.
    pub unindexed: u64,
    /// Records that pass the filter; none without a filter. Of several rounds, the first counts.
    pub matches: Option<u64>,
    /// Candidates looked at: vertices of graphs, rows of scans.
    pub visited: u64,
    /// Microseconds of the search. Its caller has the clock.
    pub micros: u64,
    /// Microseconds before it: until the view was fresh enough and there was room to compute.
    pub waited_micros: u64,
}

impl PlanReport {
    /// The steps in words, joined by commas.
    pub fn words(&self) -> String {
        let words: Vec<&str> = self.steps.iter().map(|step| step.word()).collect();
        words.join(",")
    }

    /// Candidates that a walk kept, at most; 0: no graph was walked.
    pub fn ef(&self) -> usize {
        let kept = self.steps.iter().map(|step| match step {
            Step::Graph { ef } | Step::FilteredGraph { ef } => *ef,
            Step::Exact | Step::Codes | Step::Postings | Step::Texts => 0,
        });
        kept.max().unwrap_or(0)
    }

    /// Adds what another round did.
    fn add(&mut self, round: PlanReport) {
        if self.rounds == 0 {
            *self = round;
            return;
        }
        self.steps.extend(round.steps);
        self.rounds += round.rounds;
        self.distances += round.distances;
        self.unindexed += round.unindexed;
        self.visited += round.visited;
    }

    /// Notes how long the search waited and took.
    pub fn took(&mut self, waited: Duration, time: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        (self.waited_micros, self.micros) = (micros(waited), micros(time));
    }
}

/// The nearest records of the view, or the best by words. Nothing is found for a vector that `spec` does not have.
///
/// # Errors
/// [`Fault::Cancelled`] once `cancelled` says so (asked between segments); the faults of the segments.
pub fn search(
    segments: &[&dyn SegmentView],
    spec: &CollectionSpec,
    ask: &Search<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Answer, Fault> {
    let (hits, plan) = placed(segments, spec, ask, cancelled)?;
    Ok(Answer { hits: hits.into_iter().map(|placed| placed.hit).collect(), plan, ..Answer::default() })
}

/// The nearest records, and where they lie.
fn placed(
    segments: &[&dyn SegmentView],
    spec: &CollectionSpec,
    ask: &Search<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<Placed>, PlanReport), Fault> {
    let mut plan = PlanReport { rounds: 1, segments: segments.len() as u64, ..PlanReport::default() };
    let vector = spec.vectors.get(ask.vector);
    if ask.limit == 0 || vector.is_none() && ask.text.is_none() {
        return Ok((vec![], plan));
    }
    let query = if vector.is_some_and(vectors::is_scaled) { unit(ask.query) } else { ask.query.to_vec() };
    // As many more as may be left out. What indexes sparse vectors is exact.
    let limit = ask.limit.saturating_add(ask.without.len());
    let is_sparse = vector.is_some_and(|vector| vector.form == Form::Sparse);
    let ask = Search { limit, exact: ask.exact || is_sparse, ..*ask };
    let mut found = merge::Merge::new(ask.limit, ask.max_distance);
    for (number, segment) in segments.iter().enumerate() {
        if cancelled() {
            return Err(Fault::Cancelled);
        }
        let neighbors = match ask.text {
            Some(text) => text::segment(*segment, &ask, text, (found.bound(), &mut plan))?,
            None => execute::segment(*segment, &ask, &query, &mut plan)?,
        };
        found.add(number, neighbors);
    }
    Ok((found.finish(segments, ask.without)?, plan))
}

/// Live records that pass; all of them without a filter.
pub fn count(segments: &[&dyn SegmentView], filter: Option<&Compiled>) -> Result<u64, Fault> {
    let count = |segment: &&dyn SegmentView| match filter {
        None => Ok(u64::from(segment.live())),
        Some(filter) => Ok(segment.matching(filter)?.count() as u64),
    };
    segments.iter().map(count).sum()
}

/// The keys of the live records that pass, ascending: the same on every replica of the same state.
pub fn matching_keys(segments: &[&dyn SegmentView], filter: &Compiled) -> Result<Vec<Key>, Fault> {
    let mut keys = Vec::new();
    for segment in segments {
        for row in segment.matching(filter)?.iter() {
            keys.push(segment.key(row)?);
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// The query at unit length; one without a direction stays as it is.
fn unit(query: &[f32]) -> Vec<f32> {
    let length = query.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if length == 0.0 || !length.is_finite() {
        return query.to_vec();
    }
    query.iter().map(|v| (f64::from(*v) / length) as f32).collect()
}

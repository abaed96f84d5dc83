//! Searching one segment as planned, and again where the plan came up short.

use flotilla_proto::limits::EF_MAX;

use super::plan::{Facts, PROBED, Step, choose, is_worth_a_probe};
use super::{PlanReport, Search};
use crate::index::{Neighbor, Stats};
use crate::storage::{Fault, Matching, Method, Nearest, SegmentView};

/// A scan asks for this many more than the limit, to see whether rows beyond it are as near as the last.
const TIES_LOOKED_FOR: usize = 16;
/// Where they are, for this many.
const TIES_MAX: usize = 4_096;

/// The nearest rows of one segment, at least as many as are wanted where there are as many; `query` is of unit length where
/// it must be.
pub(super) fn segment(
    segment: &dyn SegmentView,
    ask: &Search<'_>,
    query: &[f32],
    plan: &mut PlanReport,
) -> Result<Vec<Neighbor>, Fault> {
    let rows = ask.filter.map(|filter| segment.matching(filter)).transpose()?;
    let accepted = rows.as_ref().map_or(segment.live() as usize, |rows| rows.count());
    if rows.is_some() {
        *plan.matches.get_or_insert(0) += accepted as u64;
    }
    let is_indexed = segment.is_indexed(ask.vector);
    let has_codes = is_indexed && segment.has_codes(ask.vector);
    let rescored = rescored(ask).filter(|_| has_codes);
    let (ef, exact) = effort(segment, ask);
    let mut facts = Facts {
        rows: u64::from(segment.rows()),
        accepted: accepted as u64,
        is_filtered: rows.is_some(),
        is_indexed,
        has_codes,
        is_packed: rows.as_ref().is_some_and(Matching::is_repeated),
        limit: ask.limit,
        ef: ef.max(rescored.unwrap_or(0)),
        exact,
        near: None,
    };
    let mut look = Look { segment, ask, query, rows: rows.as_ref(), rescored, stats: Stats::default() };
    if is_worth_a_probe(&facts) {
        facts.near = Some(look.probe()?);
    }
    let mut step = choose(&facts);
    let found = match step {
        _ if accepted == 0 => vec![],
        Step::Exact | Step::Postings | Step::Texts => look.scan()?,
        Step::Codes | Step::Graph { .. } | Step::FilteredGraph { .. } => {
            let method = match step {
                Step::Graph { ef } | Step::FilteredGraph { ef } => Method::Graph { ef },
                _ => Method::Codes,
            };
            let found = look.look(method, ask.limit)?;
            if found.len() < ask.limit.min(accepted) {
                step = Step::Exact;
                look.scan()?
            } else {
                found
            }
        }
    };
    plan.steps.push(step);
    plan.distances += look.stats.distances;
    plan.visited += look.stats.visited;
    if !is_indexed {
        plan.unindexed += accepted as u64;
    }
    Ok(found)
}

/// Candidates to keep, and whether to scan: as asked for, or as the recall asked for takes.
fn effort(segment: &dyn SegmentView, ask: &Search<'_>) -> (usize, bool) {
    match ask.target_recall.map(|target| segment.effort(ask.vector, target, ask.limit)) {
        None => (ask.ef, ask.exact),
        Some(Some(ef)) => (ef, ask.exact),
        // Nothing that was measured finds as many.
        Some(None) => (ask.ef, true),
    }
}

/// Candidates by codes that are ordered by their vectors, if the search says how many.
fn rescored(ask: &Search<'_>) -> Option<usize> {
    let times = f64::from(ask.oversampling?);
    // A float that is too large, or no number, becomes the nearest integer there is.
    Some(((ask.limit as f64 * times).ceil() as usize).min(EF_MAX as usize).max(ask.limit))
}

/// One search of one segment.
struct Look<'a> {
    segment: &'a dyn SegmentView,
    ask: &'a Search<'a>,
    query: &'a [f32],
    rows: Option<&'a Matching>,
    rescored: Option<usize>,
    stats: Stats,
}

impl Look<'_> {
    fn look(&mut self, method: Method, limit: usize) -> Result<Vec<Neighbor>, Fault> {
        let Look { query, rows, rescored, .. } = *self;
        let nearest = Nearest { vector: self.ask.vector, query, limit, method, rescored, rows };
        self.segment.nearest(&nearest, &mut self.stats)
    }

    /// Of the nearest rows without the filter, how many pass it.
    fn probe(&mut self) -> Result<usize, Fault> {
        let method = Method::Graph { ef: PROBED };
        let nearest = Nearest {
            vector: self.ask.vector,
            query: self.query,
            limit: PROBED,
            method,
            rescored: None,
            rows: None,
        };
        let found = self.segment.nearest(&nearest, &mut self.stats)?;
        let passes = |near: &&Neighbor| self.rows.is_none_or(|rows| rows.contains(near.row));
        Ok(found.iter().filter(passes).count())
    }

    /// An exact search that brings the ties of the last hit too: a segment breaks ties by row, the answer by key. Beyond
    /// [`TIES_MAX`] records at one and the same distance, rows decide.
    fn scan(&mut self) -> Result<Vec<Neighbor>, Fault> {
        let limit = self.ask.limit;
        let found = self.look(Method::Exact, limit.saturating_add(TIES_LOOKED_FOR))?;
        let last = limit.checked_sub(1).and_then(|last| found.get(last));
        let furthest = found.get(limit.saturating_add(TIES_LOOKED_FOR - 1));
        let are_tied = |a: &Neighbor, b: &Neighbor| {
            a.distance == b.distance || a.distance.is_nan() && b.distance.is_nan()
        };
        match last.zip(furthest) {
            Some((last, furthest)) if are_tied(last, furthest) => {
                self.look(Method::Exact, limit.saturating_add(TIES_MAX))
            }
            _ => Ok(found),
        }
    }
}

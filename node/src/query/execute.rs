//! Searching one segment as planned, and again where the plan came up short.

use super::plan::{Facts, Step, choose};
use super::{PlanReport, Search};
use crate::index::{Bitset, Neighbor, Stats};
use crate::storage::{Fault, Method, Nearest, SegmentView};

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
    let accepted = rows.as_ref().map_or(segment.live() as usize, Bitset::count);
    if rows.is_some() {
        *plan.matches.get_or_insert(0) += accepted as u64;
    }
    let is_indexed = segment.is_indexed(ask.vector);
    let mut step = choose(&Facts {
        rows: u64::from(segment.rows()),
        accepted: accepted as u64,
        is_filtered: rows.is_some(),
        is_indexed,
        limit: ask.limit,
        ef: ask.ef,
        exact: ask.exact,
    });
    let mut look = Look { segment, ask, query, rows: rows.as_ref(), stats: Stats::default() };
    let found = match step {
        _ if accepted == 0 => vec![],
        Step::Exact => look.scan()?,
        Step::Graph { ef } | Step::FilteredGraph { ef } => {
            let walked = look.look(Method::Graph { ef }, ask.limit)?;
            if walked.len() < ask.limit.min(accepted) {
                step = Step::Exact;
                look.scan()?
            } else {
                walked
            }
        }
    };
    plan.steps.push(step);
    plan.distances += look.stats.distances;
    if !is_indexed {
        plan.unindexed += accepted as u64;
    }
    Ok(found)
}

/// One search of one segment.
struct Look<'a> {
    segment: &'a dyn SegmentView,
    ask: &'a Search<'a>,
    query: &'a [f32],
    rows: Option<&'a Bitset>,
    stats: Stats,
}

impl Look<'_> {
    fn look(&mut self, method: Method, limit: usize) -> Result<Vec<Neighbor>, Fault> {
        let nearest = Nearest { vector: self.ask.vector, query: self.query, limit, method, rows: self.rows };
        self.segment.nearest(&nearest, &mut self.stats)
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

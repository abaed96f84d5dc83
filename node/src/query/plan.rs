//! Choosing how one segment is searched: values in, a step out.
//!
//! **The cost model** counts distances, since they dominate. Of a segment's `rows`, `accepted` may be returned.
//!
//! * *Exact* computes `accepted` distances, in row order, which the processor prefetches.
//! * *Graph* collects `ef` accepted rows and looks at the neighbours of each row that it passes. It meets one accepted
//!   row in `rows / accepted`, so it computes about `ef * `[`DISTANCES_PER_CANDIDATE`]` * rows / accepted` distances, at
//!   most `rows`. Each costs [`WALK_COST`] times a scanned one: it waits for memory, and the heap and the visited marks
//!   are kept beside it.
//!
//! Exact wins ties, because it is also right. It wins below 1,600 rows at `ef` 100; with a filter, below about
//! `sqrt(`[`WALK_COST`]` * ef * `[`DISTANCES_PER_CANDIDATE`]` * rows)` matches: 12,600 of 100,000 rows at `ef` 100,
//! 40,000 of a million. Beyond that the walk widens by itself, as candidates that do not pass do not count towards `ef`.
//! Many deleted rows are to a walk without a filter what a filter is, and counted the same.
//!
//! Measured (2026-11-21, 30,000 clustered rows of 128 dimensions, `m` 16, random filters of density 1 to 1/20, `ef` 50
//! to 200): 5 to 11 distances for each candidate and density, each at 1 to 3 times a scanned one; at `ef` 100 the walk
//! took 0.4 of the exact time at density 1/4 and 4.3 of it at 1/10, the model's crossing being 1/4.3.

/// Distances that a walk computes for each candidate that it keeps.
pub(super) const DISTANCES_PER_CANDIDATE: u64 = 8;

/// What a distance costs in a walk, with a scanned one as the unit.
pub(super) const WALK_COST: u64 = 2;

/// How a segment is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By a scan of the accepted rows.
    Exact,
    /// By a walk of the graph.
    Graph {
        /// Candidates kept.
        ef: usize,
    },
    /// By a walk of the graph that collects only rows that pass the filter.
    FilteredGraph {
        /// Candidates kept.
        ef: usize,
    },
}

impl Step {
    /// The word for it in a plan.
    pub fn word(self) -> &'static str {
        match self {
            Step::Exact => "exact",
            Step::Graph { .. } => "graph",
            Step::FilteredGraph { .. } => "filtered_graph",
        }
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Rows of the segment, dead ones included: what a walk goes through.
    pub(super) rows: u64,
    /// Rows that may be returned.
    pub(super) accepted: u64,
    /// Whether there is a filter.
    pub(super) is_filtered: bool,
    /// Whether there is a graph.
    pub(super) is_indexed: bool,
    /// Hits wanted.
    pub(super) limit: usize,
    /// Candidates asked for.
    pub(super) ef: usize,
    /// Whether the caller asked for a scan.
    pub(super) exact: bool,
}

/// The cheapest step.
pub(super) fn choose(facts: &Facts) -> Step {
    let ef = facts.ef.max(facts.limit);
    let is_exact = facts.exact || !facts.is_indexed || facts.accepted <= walk_cost(facts, ef);
    match (is_exact, facts.is_filtered) {
        (true, _) => Step::Exact,
        (false, false) => Step::Graph { ef },
        (false, true) => Step::FilteredGraph { ef },
    }
}

/// What a walk with `ef` candidates is expected to cost, in scanned distances.
fn walk_cost(facts: &Facts, ef: usize) -> u64 {
    let wanted = (ef as u64).saturating_mul(DISTANCES_PER_CANDIDATE);
    let met = wanted.saturating_mul(facts.rows) / facts.accepted.max(1);
    met.min(facts.rows).saturating_mul(WALK_COST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rows: u64, accepted: u64, is_filtered: bool) -> Facts {
        Facts { rows, accepted, is_filtered, is_indexed: true, limit: 10, ef: 100, exact: false }
    }

    #[test]
    fn the_figures_of_the_module_doc_hold() {
        assert_eq!(choose(&facts(100_000, 12_600, true)), Step::Exact);
        assert_eq!(choose(&facts(100_000, 12_700, true)), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&facts(1_000_000, 40_000, true)), Step::Exact);
        assert_eq!(choose(&facts(1_000_000, 40_100, true)), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&facts(1_600, 1_600, false)), Step::Exact);
        assert_eq!(choose(&facts(1_601, 1_601, false)), Step::Graph { ef: 100 });
    }

    #[test]
    fn a_scan_is_taken_where_asked_for_or_without_a_graph_or_with_few_rows_left() {
        assert_eq!(choose(&Facts { exact: true, ..facts(1_000_000, 1_000_000, false) }), Step::Exact);
        assert_eq!(choose(&Facts { is_indexed: false, ..facts(1_000_000, 1_000_000, false) }), Step::Exact);
        assert_eq!(choose(&facts(1_000_000, 9, true)), Step::Exact);
        assert_eq!(choose(&facts(1_000_000, 0, true)), Step::Exact);
        assert_eq!(choose(&facts(0, 0, false)), Step::Exact);
        assert_eq!(choose(&facts(1_000_000, 20_000, false)), Step::Exact, "most rows are deleted");
    }

    #[test]
    fn a_walk_keeps_at_least_the_limit() {
        let many = Facts { limit: 3_000, ..facts(1_000_000, 1_000_000, false) };
        assert_eq!(choose(&many), Step::Graph { ef: 3_000 });
        let all = Facts { limit: usize::MAX, ..many };
        assert_eq!(choose(&all), Step::Exact);
    }
}

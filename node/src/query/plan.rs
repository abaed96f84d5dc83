//! Choosing how one segment is searched: values in, a step out.
//!
//! **The cost model** counts in hundredths of what one vector costs in a scan. Of a segment's `rows`, `accepted` may be returned.
//!
//! * *Exact* reads the vector of each accepted row.
//! * *Codes* looks at the sketch of each accepted row, which is a line of memory, and reads the vectors of a few; a filter that
//!   comes again has its sketches side by side. It finds nearly what *exact* finds.
//! * *Graph* collects `ef` accepted rows. It meets one accepted row in `rows / accepted`, so it goes through about `ef * rows /
//!   accepted` vertices, at most `rows`. With codes a vertex is one run of memory; without them it is about
//!   [`DISTANCES_PER_CANDIDATE`] vectors, each at twice the cost of a scanned one, for which the walk waits.
//!
//! **Correlation.** Rows that pass may be just where the query is, or just not there, and then a walk meets more or fewer of them
//! than their share says. Where both ways are dear, the nearest rows without the filter are looked up first ([`is_worth_a_probe`]), and
//! the share of those that pass, mixed with that of all ([`Facts::met`]), takes the place of `accepted / rows`.
//!
//! Many deleted rows are to a walk without a filter what a filter is, and counted the same.
//!
//! Measured (2026-11, 100,000 x 384, `m` 16, one core): a scanned vector of scattered rows 140 ns; a sketch 22 ns scattered and 5 to
//! 7 ns side by side; a vertex of a coded walk 1.1 us, with `ef * rows / accepted` of them to within a tenth from density 1 to 1/50.

/// What looking at a scattered sketch costs.
const SCATTERED: u64 = 16;
/// What looking at a sketch beside others costs.
const PACKED: u64 = 5;
/// What a look at codes costs beside the sketches: preparing the query, and the vectors that are read in the end.
const CODES_BASE: u64 = 6_000;
/// What a vertex of a walk costs, with codes.
const CODED_VERTEX: u64 = 800;
/// Vectors that a walk without codes reads for each candidate that it keeps.
const DISTANCES_PER_CANDIDATE: u64 = 8;
/// What each of them costs.
const WALKED: u64 = 200;
/// What a scanned vector costs.
const SCANNED: u64 = 100;

/// Nearest rows that a probe looks up.
pub(super) const PROBED: usize = 32;
/// A probe is made where the best step costs so many times what it does.
const PROBE_WORTH: u64 = 6;
/// A probe's share counts as much as this many rows that have the share of all.
const PROBE_DOUBT: u64 = 8;

/// How a segment is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By a scan of the accepted rows.
    Exact,
    /// By a look at the codes of the accepted rows.
    Codes,
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
    /// By the postings of words.
    Postings,
    /// By reading texts.
    Texts,
}

impl Step {
    /// The word for it in a plan.
    pub fn word(self) -> &'static str {
        match self {
            Step::Exact => "exact",
            Step::Codes => "codes",
            Step::Graph { .. } => "graph",
            Step::FilteredGraph { .. } => "filtered_graph",
            Step::Postings => "postings",
            Step::Texts => "texts",
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
    /// Whether the graph has codes.
    pub(super) has_codes: bool,
    /// Whether the accepted rows' sketches lie side by side.
    pub(super) is_packed: bool,
    /// Hits wanted.
    pub(super) limit: usize,
    /// Candidates asked for.
    pub(super) ef: usize,
    /// Whether the caller asked for a scan.
    pub(super) exact: bool,
    /// Of the [`PROBED`] nearest rows, how many are accepted, where that is known.
    pub(super) near: Option<usize>,
}

impl Facts {
    fn width(&self) -> usize {
        self.ef.max(self.limit)
    }

    /// Of how many rows a walk meets how many that are accepted.
    fn met(&self) -> (u64, u64) {
        let rows = self.rows.max(1);
        match self.near {
            None => (rows, self.accepted.max(1)),
            // Hundredths of rows: the nearest, and some that have the share of all.
            Some(near) => {
                let accepted = near as u64 * 100 + PROBE_DOUBT * 100 * self.accepted / rows;
                ((PROBED as u64 + PROBE_DOUBT) * 100, accepted.max(1))
            }
        }
    }

    fn walk_cost(&self) -> u64 {
        let (of, met) = self.met();
        let vertices = (self.width() as u64).saturating_mul(of) / met;
        if self.has_codes {
            vertices.min(self.rows).saturating_mul(CODED_VERTEX)
        } else {
            vertices.saturating_mul(DISTANCES_PER_CANDIDATE).min(self.rows).saturating_mul(WALKED)
        }
    }

    /// The cheapest way that is not a walk.
    fn scan_cost(&self) -> (u64, Step) {
        let exact = self.accepted.saturating_mul(SCANNED);
        let each = if self.is_packed { PACKED } else { SCATTERED };
        let codes = self.accepted.saturating_mul(each).saturating_add(CODES_BASE);
        // Looked at by codes, most of the rows that are wanted in the end would be read twice.
        let is_few = (self.limit as u64).saturating_mul(8) < self.accepted;
        if self.has_codes && is_few && codes < exact { (codes, Step::Codes) } else { (exact, Step::Exact) }
    }

    fn must_be_exact(&self) -> bool {
        self.exact || !self.is_indexed
    }
}

/// The cheapest step.
pub(super) fn choose(facts: &Facts) -> Step {
    let (cost, step) = facts.scan_cost();
    match facts.is_filtered {
        _ if facts.must_be_exact() => Step::Exact,
        _ if cost <= facts.walk_cost() => step,
        false => Step::Graph { ef: facts.width() },
        true => Step::FilteredGraph { ef: facts.width() },
    }
}

/// Whether both a walk and a scan cost so much that looking up the nearest rows first is worth it.
pub(super) fn is_worth_a_probe(facts: &Facts) -> bool {
    let probe = Facts { accepted: facts.rows, limit: PROBED, ef: PROBED, near: None, ..*facts }.walk_cost();
    let least = facts.walk_cost().min(facts.scan_cost().0);
    facts.is_filtered
        && facts.near.is_none()
        && !facts.must_be_exact()
        && least > probe.saturating_mul(PROBE_WORTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(rows: u64, accepted: u64, is_filtered: bool) -> Facts {
        let (has_codes, is_packed, near) = (false, false, None);
        Facts {
            rows,
            accepted,
            is_filtered,
            is_indexed: true,
            has_codes,
            is_packed,
            limit: 10,
            ef: 100,
            exact: false,
            near,
        }
    }

    fn coded(rows: u64, accepted: u64, is_packed: bool) -> Facts {
        Facts { has_codes: true, is_packed, ..plain(rows, accepted, true) }
    }

    #[test]
    fn without_codes_a_scan_wins_below_the_crossing() {
        assert_eq!(choose(&plain(100_000, 12_600, true)), Step::Exact);
        assert_eq!(choose(&plain(100_000, 12_700, true)), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&plain(1_000_000, 40_000, true)), Step::Exact);
        assert_eq!(choose(&plain(1_000_000, 40_100, true)), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&plain(1_600, 1_600, false)), Step::Exact);
        assert_eq!(choose(&plain(1_601, 1_601, false)), Step::Graph { ef: 100 });
    }

    #[test]
    fn codes_are_looked_at_where_few_rows_pass_and_exactly_where_very_few() {
        assert_eq!(choose(&coded(100_000, 52_000, true)), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&coded(100_000, 8_900, false)), Step::Codes);
        assert_eq!(choose(&coded(100_000, 1_800, true)), Step::Codes);
        assert_eq!(choose(&coded(100_000, 60, true)), Step::Exact);
        assert_eq!(choose(&Facts { ef: 10, ..coded(100_000, 8_900, false) }), Step::FilteredGraph { ef: 10 });
        assert_eq!(choose(&Facts { ef: 10, ..coded(100_000, 8_900, true) }), Step::Codes);
        let many = Facts { limit: 1_000, ef: 1_000, ..coded(100_000, 2_000, true) };
        assert_eq!(choose(&many), Step::Exact, "half of them are wanted");
        let all = Facts { is_filtered: false, ..coded(100_000, 100_000, false) };
        assert_eq!(choose(&all), Step::Graph { ef: 100 });
        assert_eq!(choose(&Facts { rows: 3_000, accepted: 3_000, ..all }), Step::Codes);
    }

    #[test]
    fn a_scan_is_taken_where_asked_for_or_without_a_graph_or_with_few_rows_left() {
        assert_eq!(choose(&Facts { exact: true, ..plain(1_000_000, 1_000_000, false) }), Step::Exact);
        assert_eq!(choose(&Facts { exact: true, ..coded(1_000_000, 1_000_000, true) }), Step::Exact);
        assert_eq!(choose(&Facts { is_indexed: false, ..plain(1_000_000, 1_000_000, false) }), Step::Exact);
        assert_eq!(choose(&plain(1_000_000, 9, true)), Step::Exact);
        assert_eq!(choose(&plain(1_000_000, 0, true)), Step::Exact);
        assert_eq!(choose(&plain(0, 0, false)), Step::Exact);
        assert_eq!(choose(&coded(0, 0, false)), Step::Exact);
        assert_eq!(choose(&plain(1_000_000, 20_000, false)), Step::Exact, "most rows are deleted");
    }

    #[test]
    fn a_walk_keeps_at_least_the_limit() {
        let many = Facts { limit: 3_000, ..plain(1_000_000, 1_000_000, false) };
        assert_eq!(choose(&many), Step::Graph { ef: 3_000 });
        let all = Facts { limit: usize::MAX, ..many };
        assert_eq!(choose(&all), Step::Exact);
    }

    #[test]
    fn a_probe_is_made_where_both_ways_are_dear_and_decides() {
        let some = coded(1_000_000, 100_000, false);
        assert!(is_worth_a_probe(&some));
        assert!(
            !is_worth_a_probe(&Facts { exact: true, ..some })
                && !is_worth_a_probe(&coded(1_000_000, 2_000, true))
        );
        assert!(!is_worth_a_probe(&Facts { is_filtered: false, ..some }));
        assert_eq!(choose(&some), Step::FilteredGraph { ef: 100 });
        let [here, nowhere] = [PROBED, 0].map(|near| Facts { near: Some(near), ..some });
        assert_eq!(choose(&here), Step::FilteredGraph { ef: 100 });
        assert_eq!(choose(&nowhere), Step::Codes, "where the query is, hardly any row passes");
        let few = coded(1_000_000, 30_000, false);
        assert_eq!(choose(&few), Step::Codes);
        assert_eq!(choose(&Facts { near: Some(PROBED), ..few }), Step::FilteredGraph { ef: 100 });
    }
}

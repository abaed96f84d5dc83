//! What the background should do next: a pure choice over how the segments stand.
//!
//! There are two kinds of steps, taken beside each other: [`index`] gives segments the graphs that they lack, which shortens what
//! searches have to scan, and [`merge`] makes few large segments of many small ones, which takes long and hurries nobody.
//!
//! **The cost to keep down is graph insertions per row**: they are by far the most expensive thing this layer does.
//! So segments without a graph are gathered into one graph rather than each getting a small one that a merge would
//! throw away, and segments with graphs are merged only in fours of a size ([`Limits::fan_in`]), which costs a row one
//! insertion per quadrupling of the partition. While writes come faster than graphs are built, each build takes up
//! what piled up during the one before, so a row is inserted about once. One build takes at most as many rows as are
//! indexed already (or [`Limits::index_rows`], if that is more), so the unindexed tail shrinks step by step rather
//! than all at once at the end.

use std::cmp::Reverse;

/// How a segment stands. Segments that something is already being done to are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its number.
    pub number: u64,
    /// Rows, dead ones included.
    pub rows: u32,
    /// Rows that a merge would keep.
    pub kept: u32,
    /// Whether it waits for a graph.
    pub is_unindexed: bool,
    /// Whether it indexes other fields than are declared now.
    pub is_stale: bool,
}

/// The bounds of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Segments of a size that are merged.
    pub fan_in: usize,
    /// Segments wanted, at most.
    pub segments_max: usize,
    /// Rows that a merge makes, at most.
    pub rows_max: u32,
    /// Rows that wait for a graph and may be taken together in any case.
    pub index_rows: u32,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Merge these into one segment with its graphs. One alone is rewritten without its dead rows, for the fields of now.
    Merge(Vec<u64>),
    /// Build the graphs of this one where it stands.
    Index(u64),
}

/// Sizes of a tier differ by less than a factor of four.
fn tier(kept: u32) -> u32 {
    (kept / 64).checked_ilog(4).map_or(0, |tier| tier + 1)
}

/// Smallest first.
fn in_order(standings: &[Standing]) -> Vec<Standing> {
    let mut all = standings.to_vec();
    all.sort_by_key(|s| (s.kept, s.number));
    all
}

/// What is due of merges: of segments that have their graphs, or want none.
pub(super) fn merge(standings: &[Standing], limits: &Limits) -> Option<Step> {
    let mut all = in_order(standings);
    all.retain(|standing| !standing.is_unindexed);
    let step = tier_step(&all, limits).or_else(|| crowd_step(&all, limits));
    step.or_else(|| dead_step(&all)).or_else(|| stale_step(&all))
}

/// What is due of graphs: segments without them together, and with the indexed ones of their size if those are about to be merged
/// anyway and are not many.
pub(super) fn index(standings: &[Standing], limits: &Limits) -> Option<Step> {
    let all = &in_order(standings);
    let indexed = all.iter().filter(|s| !s.is_unindexed).fold(0, |rows: u32, s| rows.saturating_add(s.kept));
    let at_once = Limits { rows_max: indexed.max(limits.index_rows).min(limits.rows_max), ..*limits };
    let waiting = fitting(all.iter().filter(|s| s.is_unindexed), &at_once);
    let rows: u32 = waiting.iter().map(|s| s.kept).sum();
    let peers: Vec<&Standing> =
        all.iter().filter(|s| !s.is_unindexed && tier(s.kept) <= tier(rows)).collect();
    let same = peers.iter().filter(|s| tier(s.kept) == tier(rows)).count();
    if !waiting.is_empty() && same + 1 >= limits.fan_in {
        let few = Limits { rows_max: limits.index_rows.saturating_mul(2).min(limits.rows_max), ..*limits };
        let together = fitting(waiting.iter().chain(&peers).copied(), &few);
        if together.len() > waiting.len() {
            return Some(merged(&together));
        }
    }
    match waiting.as_slice() {
        [] => None,
        [one] => Some(Step::Index(one.number)),
        several => Some(merged(several)),
    }
}

/// The smallest tier that is full, with everything smaller.
fn tier_step(all: &[Standing], limits: &Limits) -> Option<Step> {
    let full = (0..=tier(u32::MAX)).find(|t| {
        let peers = all.iter().filter(|s| tier(s.kept) == *t && s.kept <= limits.rows_max / 2);
        peers.count() >= limits.fan_in
    })?;
    let together = fitting(all.iter().filter(|s| tier(s.kept) <= full), limits);
    (together.len() > 1).then(|| merged(&together))
}

/// More segments than wanted: the smallest ones.
fn crowd_step(all: &[Standing], limits: &Limits) -> Option<Step> {
    if all.len() <= limits.segments_max {
        return None;
    }
    let together = fitting(all.iter().take(limits.fan_in), limits);
    (together.len() > 1).then(|| merged(&together))
}

/// A segment of which two fifths are dead: the worst.
fn dead_step(all: &[Standing]) -> Option<Step> {
    let dead = |s: &Standing| u64::from(s.rows.saturating_sub(s.kept));
    let worst = all.iter().filter(|s| dead(s) * 5 >= u64::from(s.rows) * 2);
    worst.max_by_key(|s| (dead(s), Reverse(s.number))).map(|s| Step::Merge(vec![s.number]))
}

/// A segment that does not index what is declared now: the smallest. It is written anew with the graphs that it has.
fn stale_step(all: &[Standing]) -> Option<Step> {
    all.iter().find(|standing| standing.is_stale).map(|standing| Step::Merge(vec![standing.number]))
}

/// As many as fit in one segment, in order; the first one always.
fn fitting<'a>(of: impl Iterator<Item = &'a Standing>, limits: &Limits) -> Vec<&'a Standing> {
    let mut rows = 0_u32;
    let mut taken = Vec::new();
    for standing in of {
        rows = rows.saturating_add(standing.kept);
        if rows > limits.rows_max && !taken.is_empty() {
            break;
        }
        taken.push(standing);
    }
    taken
}

fn merged(standings: &[&Standing]) -> Step {
    let mut numbers: Vec<u64> = standings.iter().map(|s| s.number).collect();
    numbers.sort_unstable();
    Step::Merge(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due, graphs first.
    fn next(standings: &[Standing], limits: &Limits) -> Option<Step> {
        index(standings, limits).or_else(|| merge(standings, limits))
    }

    const LIMITS: Limits = Limits { fan_in: 4, segments_max: 12, rows_max: 1_000_000, index_rows: 50_000 };

    fn s(number: u64, kept: u32, is_unindexed: bool) -> Standing {
        Standing { number, rows: kept, kept, is_unindexed, is_stale: false }
    }

    #[test]
    fn a_lone_fresh_segment_is_indexed_where_it_stands() {
        assert_eq!(next(&[], &LIMITS), None);
        assert_eq!(next(&[s(1, 10_000, false)], &LIMITS), None);
        assert_eq!(next(&[s(1, 40_000, false), s(2, 10_000, true)], &LIMITS), Some(Step::Index(2)));
    }

    #[test]
    fn what_piled_up_becomes_one_graph() {
        let piled: Vec<Standing> = (1..6).map(|n| s(n, 10_000, true)).collect();
        assert_eq!(next(&piled, &LIMITS), Some(Step::Merge(vec![1, 2, 3, 4, 5])));
        let mut more: Vec<Standing> = (1..10).map(|n| s(n, 10_000, true)).collect();
        assert_eq!(next(&more, &LIMITS), Some(Step::Merge(vec![1, 2, 3, 4, 5])));
        more.push(s(10, 70_000, false));
        assert_eq!(next(&more, &LIMITS), Some(Step::Merge(vec![1, 2, 3, 4, 5, 6, 7])));
        let tight = Limits { rows_max: 25_000, ..LIMITS };
        assert_eq!(next(&piled, &tight), Some(Step::Merge(vec![1, 2])));
    }

    #[test]
    fn the_fourth_of_a_size_is_not_indexed_on_its_own() {
        let mut all: Vec<Standing> = (1..4).map(|n| s(n, 10_000, false)).collect();
        all.push(s(4, 10_000, true));
        assert_eq!(next(&all, &LIMITS), Some(Step::Merge(vec![1, 2, 3, 4])));
    }

    #[test]
    fn a_graph_that_is_lacking_does_not_wait_for_a_long_merge() {
        let mut all: Vec<Standing> = (1..4).map(|n| s(n, 90_000, false)).collect();
        all.push(s(4, 80_000, true));
        assert_eq!(index(&all, &LIMITS), Some(Step::Index(4)));
        assert_eq!(merge(&all, &LIMITS), None, "the fourth is not there yet");
        all[3].is_unindexed = false;
        assert_eq!((index(&all, &LIMITS), merge(&all, &LIMITS)), (None, Some(Step::Merge(vec![1, 2, 3, 4]))));
    }

    #[test]
    fn dead_rows_and_crowds_are_cleared() {
        let dead = Standing { number: 3, rows: 1_000, kept: 600, is_unindexed: false, is_stale: false };
        assert_eq!(next(&[s(1, 50, false), dead], &LIMITS), Some(Step::Merge(vec![3])));
        let gone = Standing { kept: 0, ..dead };
        assert_eq!(next(&[gone], &LIMITS), Some(Step::Merge(vec![3])));
        let steps = [64, 64, 64, 256, 256, 256, 1024, 1024, 1024, 4096, 4096, 4096, 16384];
        let crowd: Vec<Standing> = steps.iter().zip(1..).map(|(rows, n)| s(n, *rows, false)).collect();
        assert_eq!(next(&crowd, &LIMITS), Some(Step::Merge(vec![1, 2, 3, 4])));
    }

    #[test]
    fn fields_that_came_later_are_indexed_when_nothing_else_is_due() {
        let mut all: Vec<Standing> = (1..5).map(|n| s(n, 10_000 * n as u32, false)).collect();
        all[2].is_stale = true;
        all[3].is_stale = true;
        assert_eq!(next(&all[1..], &LIMITS), Some(Step::Merge(vec![3])));
        all[2] = s(5, 10_000, true);
        assert_eq!(next(&all[1..], &LIMITS), Some(Step::Index(5)), "graphs first");
    }

    /// The steps end, and cost few insertions per row, whatever the sizes.
    #[test]
    fn every_start_settles() {
        for seed in 0..50_u64 {
            let mut all: Vec<Standing> = (0..seed % 40)
                .map(|n| s(n, (seed.wrapping_mul(n * 7_919 + 13) % 20_000) as u32 + 1, n % 3 == 0))
                .collect();
            let (total, mut inserted, mut fresh) = (all.iter().map(|s| s.kept).sum::<u32>(), 0, 1_000);
            while let Some(step) = next(&all, &LIMITS) {
                let numbers = match step {
                    Step::Merge(numbers) => numbers,
                    Step::Index(number) => vec![number],
                };
                let (taken, left) = all.into_iter().partition(|s| numbers.contains(&s.number));
                let taken: Vec<Standing> = taken;
                all = left;
                let rows = taken.iter().map(|s| s.kept).sum();
                inserted += rows;
                fresh += 1;
                all.push(s(fresh, rows, false));
                assert!(fresh < 1_200, "seed {seed} does not settle");
            }
            assert!(inserted <= total * 8, "seed {seed}: {inserted} insertions for {total} rows");
            assert!(all.len() <= 12);
        }
    }
}

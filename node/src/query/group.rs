//! Hits in groups: the nearest groups of one partition, each with its nearest records.
//!
//! Groups are ordered by their best hits, ties by group, and each holds its best hits. Searches give the nearest rows
//! and no groups, so this runs several of them, in three stages:
//!
//! 1. **open**: the nearest rows, whatever their groups. Usually the wanted groups are among them, and full.
//! 2. **find**: while groups are wanted, the nearest rows that are in a group not seen yet. Each round finds at least
//!    one.
//! 3. **fill**: while a wanted group is not full, the nearest rows of those groups. Each round fills at least one.
//!
//! **Invariants.**
//! * What a round shows of a group that it does not leave out is a prefix of that group's rows in order, so a group's
//!   hits are always taken from one round as a whole.
//! * A round that brings fewer rows than it asks for has brought all there are: nothing is missing then.
//! * Rounds are bounded; whoever runs out of them says so.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::filter::Compiled;
use flotilla_proto::group::{GroupBy, GroupKey};
use flotilla_proto::record::Value;
use flotilla_proto::schema::CollectionSpec;

use super::merge::Placed;
use super::{Answer, PartialHit, PlanReport, Search, placed};
use crate::storage::{Fault, SegmentView};

/// Rows of a round: at least, at most. The most is no less than groups times size can be.
const ROWS: (usize, usize) = (64, 10_000);
/// Rounds that open: the later ones narrow the search by a condition on the field, which has to be evaluated.
const OPENINGS: u64 = 2;
/// How many more rows a round asks for than the one before.
const GROWTH: usize = 4;
/// Rounds of one search, at most.
const ROUNDS_MAX: u64 = 64;

/// Which groups are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Grouping<'a> {
    /// What makes a group.
    pub by: &'a GroupBy,
    /// Groups wanted, at most.
    pub groups: usize,
    /// Hits of a group, at most.
    pub size: usize,
    /// Only these groups.
    pub only: Option<&'a BTreeSet<GroupKey>>,
}

/// A group that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Which.
    pub key: GroupKey,
    /// The value that makes it, as its best hit has it.
    pub value: Value,
    /// Its hits: nearest first, ties by key.
    pub hits: Vec<PartialHit>,
}

/// What the next round is for.
enum Stage {
    Open,
    Find,
    /// These groups are wanted and not full.
    Fill(BTreeSet<GroupKey>),
    Done,
}

/// The nearest groups of the view; `ask.limit` means nothing.
///
/// # Errors
/// Those of [`search`](super::search).
pub fn grouped(
    segments: &[&dyn SegmentView],
    spec: &CollectionSpec,
    ask: &Search<'_>,
    grouping: &Grouping<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Answer, Fault> {
    within(ROUNDS_MAX, segments, spec, ask, grouping, cancelled)
}

/// The same, in at most so many rounds.
pub(super) fn within(
    rounds_max: u64,
    segments: &[&dyn SegmentView],
    spec: &CollectionSpec,
    ask: &Search<'_>,
    grouping: &Grouping<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Answer, Fault> {
    let mut gathered = Gathered { grouping, groups: BTreeMap::new() };
    let mut stage = grouping.only.map_or(Stage::Open, |only| Stage::Fill(only.clone()));
    let mut plan = PlanReport::default();
    let mut limit = grouping.groups.saturating_mul(grouping.size).clamp(ROWS.0, ROWS.1);
    while plan.rounds < rounds_max && !matches!(stage, Stage::Done) {
        let narrowed = gathered.narrowed(&stage, ask.filter);
        let round = Search { filter: narrowed.as_ref().or(ask.filter), limit, ..*ask };
        let (rows, report) = placed(segments, spec, &round, cancelled)?;
        let is_all = rows.len() < limit;
        plan.add(report);
        gathered.take(&stage, rows, segments)?;
        stage = gathered.next(stage, is_all, plan.rounds);
        limit = limit.saturating_mul(GROWTH).min(ROWS.1);
    }
    let is_cut = !matches!(stage, Stage::Done);
    Ok(Answer { hits: vec![], groups: gathered.finish(), is_cut, plan })
}

/// What is known so far.
struct Gathered<'a> {
    grouping: &'a Grouping<'a>,
    /// At most as many as are wanted, each with at most as many hits as are wanted.
    groups: BTreeMap<GroupKey, (Value, Vec<PartialHit>)>,
}

impl Gathered<'_> {
    /// The condition of the next round; none: the search's own.
    fn narrowed(&self, stage: &Stage, filter: Option<&Compiled>) -> Option<Compiled> {
        let by = self.grouping.by;
        let condition = match stage {
            Stage::Open | Stage::Done => return None,
            Stage::Find => by.beyond(self.groups.keys().cloned().collect()),
            Stage::Fill(wanted) => by.among(wanted.iter()),
        };
        Some(Compiled::All(filter.cloned().into_iter().chain([condition]).collect()))
    }

    /// Takes the groups of a round's rows, as far as the round is for them.
    fn take(&mut self, stage: &Stage, rows: Vec<Placed>, segments: &[&dyn SegmentView]) -> Result<(), Fault> {
        let room = match stage {
            Stage::Open | Stage::Fill(_) => self.grouping.groups,
            Stage::Find | Stage::Done => self.grouping.groups.saturating_sub(self.groups.len()),
        };
        let is_for = |key: &GroupKey| match stage {
            Stage::Open => true,
            Stage::Find => !self.groups.contains_key(key),
            Stage::Fill(wanted) => wanted.contains(key),
            Stage::Done => false,
        };
        let mut round: BTreeMap<GroupKey, (Value, Vec<PartialHit>)> = BTreeMap::new();
        for Placed { hit, segment, row } in rows {
            for (key, value) in self.grouping.by.groups(&segments[segment].payload(row)?) {
                if let Some((_, hits)) = round.get_mut(&key) {
                    if hits.len() < self.grouping.size {
                        hits.push(hit.clone());
                    }
                } else if round.len() < room && is_for(&key) {
                    round.insert(key, (value, vec![hit.clone()]));
                }
            }
        }
        if matches!(stage, Stage::Open) {
            self.groups.clear();
        }
        self.groups.append(&mut round);
        Ok(())
    }

    /// What to do after a round, which was the last one needed of its stage if it brought all rows there are.
    fn next(&self, stage: Stage, is_all: bool, rounds: u64) -> Stage {
        let is_full =
            |key: &GroupKey| self.groups.get(key).is_some_and(|(_, hits)| hits.len() >= self.grouping.size);
        let has_all = self.groups.len() >= self.grouping.groups;
        let rest: BTreeSet<GroupKey> = match &stage {
            Stage::Fill(wanted) => wanted.iter().filter(|key| !is_full(key)).cloned().collect(),
            _ => self.groups.keys().filter(|key| !is_full(key)).cloned().collect(),
        };
        match stage {
            Stage::Open | Stage::Fill(_) if is_all => Stage::Done,
            Stage::Open if !(has_all && rest.is_empty()) && rounds < OPENINGS => Stage::Open,
            Stage::Open | Stage::Find if !has_all && !is_all => Stage::Find,
            _ if rest.is_empty() => Stage::Done,
            _ => Stage::Fill(rest),
        }
    }

    fn finish(self) -> Vec<Group> {
        let groups = self.groups.into_iter().map(|(key, (value, hits))| Group { key, value, hits });
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by(|a, b| a.hits.first().cmp(&b.hits.first()));
        groups
    }
}

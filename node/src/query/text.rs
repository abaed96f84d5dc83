//! Searching for words: the best rows of each segment by BM25, and before that, what there is to be added up over all
//! partitions so that scores mean the same everywhere.
//!
//! **Two phases.** [`weigh`] tells how many live records have a word in the field, how long their texts are, how many have each
//! clause of the query, and, of words that stand for others, for which. Whoever asks adds that up over partitions and sends it
//! with the search as weights. Deleted and hidden rows count nowhere.
//!
//! Every posting of the query's words is scored: exact first.

use flotilla_proto::fulltext::{Clause, Kin, Language, Need, bm25};

use super::merge::by_distance;
use super::plan::Step;
use super::{PlanReport, Search};
use crate::index::Neighbor;
use crate::storage::{Fault, Listed, SegmentView, Sought, Tally, TextField, Weighed};

/// What to search for in a text.
#[derive(Debug)]
pub struct TextSearch {
    field: TextField,
    need: Need,
    sought: Sought,
    weights: Vec<f64>,
    mean_length: f64,
}

impl TextSearch {
    /// Records that have what is needed of these clauses in `field`, whose texts are of a language or of none, scored by the clauses' weights and the mean length of all
    /// records' texts, which is above 0.
    pub fn new(
        field: &str,
        language: Option<Language>,
        need: Need,
        clauses: &[Clause],
        mean_length: f64,
    ) -> TextSearch {
        TextSearch {
            field: TextField::new(field, language),
            need,
            sought: Sought::new(clauses),
            weights: clauses.iter().map(|clause| clause.weight).collect(),
            mean_length,
        }
    }

    fn score(&self, tally: &Tally<'_>) -> f32 {
        match self.need {
            Need::Any | Need::All => {
                let words = self.weights.iter().copied().zip(tally.shares.iter().copied());
                bm25::score(words, tally.length, self.mean_length)
            }
            Need::Phrase => {
                // A phrase is a word that weighs what its words do.
                let weight = self.weights.iter().fold(0.0, |sum, weight| sum + weight);
                let shares = tally.phrases.saturating_mul(bm25::SHARES);
                bm25::score(std::iter::once((weight, shares)), tally.length, self.mean_length)
            }
        }
    }
}

/// What to weigh.
#[derive(Debug)]
pub struct Weighing {
    field: TextField,
    kin: Vec<Kin>,
    listed_most: usize,
    sought: Sought,
}

impl Weighing {
    /// Of `field`: the kin of these words, at most `listed_most` of all together, and the records of these clauses.
    pub fn new(
        field: &str,
        language: Option<Language>,
        kin: Vec<Kin>,
        listed_most: usize,
        clauses: &[Clause],
    ) -> Weighing {
        let field = TextField::new(field, language);
        Weighing { field, kin, listed_most, sought: Sought::new(clauses) }
    }
}

/// What was weighed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Records, their words, and the records of each clause.
    pub weighed: Weighed,
    /// Of each word whose kin was asked for: its kin by word, with the records that have it; and whether there are more.
    pub kin: Vec<(Vec<(String, u64)>, bool)>,
}

/// What the words weigh in the view.
///
/// # Errors
/// [`Fault::Cancelled`] once `cancelled` says so (asked between segments); the faults of the segments.
pub fn weigh(
    segments: &[&dyn SegmentView],
    ask: &Weighing,
    cancelled: &dyn Fn() -> bool,
) -> Result<Weights, Fault> {
    let most = ask.listed_most / ask.kin.len().max(1);
    let mut lists: Vec<Listed> = ask.kin.iter().map(|_| Listed::new(most)).collect();
    let mut weighed = Weighed::none(ask.sought.len());
    for segment in segments {
        for (kin, listed) in ask.kin.iter().zip(&mut lists) {
            if cancelled() {
                return Err(Fault::Cancelled);
            }
            segment.list_kin(&ask.field, kin, None, listed)?;
        }
        if cancelled() {
            return Err(Fault::Cancelled);
        }
        weighed.add(&segment.weigh(&ask.field, &ask.sought, None)?);
    }
    Ok(Weights { weighed, kin: lists.into_iter().map(Listed::finish).collect() })
}

/// The best rows of one segment, no further than `bound`: as many as are wanted where there are as many, and those that score
/// as the last of them. Keys break ties, but where they are too many that is left to the caller.
pub(super) fn segment(
    segment: &dyn SegmentView,
    ask: &Search<'_>,
    text: &TextSearch,
    (bound, plan): (Option<f32>, &mut PlanReport),
) -> Result<Vec<Neighbor>, Fault> {
    let rows = ask.filter.map(|filter| segment.matching(filter)).transpose()?;
    if let Some(rows) = &rows {
        *plan.matches.get_or_insert(0) += rows.count() as u64;
    }
    let mut best = Best { segment, limit: ask.limit, bound, found: Vec::new() };
    let mut visited = 0_u64;
    let each = &mut |row: u32, tally: &Tally<'_>| {
        visited += 1;
        best.offer(Neighbor { row, distance: -text.score(tally) })
    };
    segment.occurrences(&text.field, (&text.sought, text.need), rows.as_ref(), each)?;
    plan.visited += visited;
    let is_indexed = segment.has_words(&text.field);
    plan.steps.push(if is_indexed { Step::Postings } else { Step::Texts });
    if !is_indexed {
        plan.unindexed += rows.as_ref().map_or(u64::from(segment.live()), |rows| rows.count() as u64);
    }
    best.cut()?;
    Ok(best.found)
}

/// Rows that score as the last one that is wanted, beyond which their keys are read.
const TIES_MAX: usize = 1_024;

/// The best rows so far, and some that were among them.
struct Best<'a> {
    segment: &'a dyn SegmentView,
    limit: usize,
    bound: Option<f32>,
    found: Vec<Neighbor>,
}

impl Best<'_> {
    fn offer(&mut self, found: Neighbor) -> Result<(), Fault> {
        if self.bound.is_some_and(|bound| by_distance(found.distance, bound).is_gt()) {
            return Ok(());
        }
        self.found.push(found);
        if self.found.len() >= 2 * self.limit + 2 * TIES_MAX {
            return self.cut();
        }
        Ok(())
    }

    /// Lets go of what is further than the last one that is wanted; and of what scores as that one, where it is much, by key.
    fn cut(&mut self) -> Result<(), Fault> {
        if self.found.len() <= self.limit {
            return Ok(());
        }
        let Some(last) = self.limit.checked_sub(1) else {
            self.found.clear();
            return Ok(());
        };
        let (_, last, _) =
            self.found.select_nth_unstable_by(last, |a, b| by_distance(a.distance, b.distance));
        let bound = last.distance;
        self.bound = Some(bound);
        self.found.retain(|found| by_distance(found.distance, bound).is_le());
        if self.found.len() <= self.limit + TIES_MAX {
            return Ok(());
        }
        let mut ties = Vec::new();
        for tie in self.found.extract_if(.., |found| by_distance(found.distance, bound).is_eq()) {
            ties.push((self.segment.key(tie.row)?, tie));
        }
        ties.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        ties.truncate(self.limit.saturating_sub(self.found.len()));
        self.found.extend(ties.into_iter().map(|(_, tie)| tie));
        Ok(())
    }
}

//! The first phase of a search for words: what they stand for and what they weigh, over all partitions.
//!
//! Each partition tells, by one view that the search then reads too, how many of its live records have each word, and the
//! sums are the same however records are spread. Where words stand for others (a prefix, edits), each partition first lists
//! those that it has, and the union is cut here to those of most records, ties by word; then the records of what was chosen
//! are counted by the same views.
//!
//! A partition lists no more than [`TEXT_LISTED_MAX`](flotilla_proto::limits::TEXT_LISTED_MAX) words. Only where one has more
//! of a word's kin than that does it depend on how records are spread which of them are chosen; that is told as cut, as any
//! choice is.

use std::collections::BTreeMap;

use flotilla_proto::convert::{clause_to_wire, kin_to_wire};
use flotilla_proto::fulltext::{Clause, Kin, TextQuery, bm25};
use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::limits::TEXT_KIN_MAX;
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::placement::View;
use crate::read::options::ReadOptions;

/// By ordinal of the partition: the node and the view that answered, or why none did.
pub(super) type Sites = Vec<Result<(NodeId, LogIndex), Status>>;

/// What the words weigh.
pub(super) struct Weighed {
    /// For the search itself.
    pub(super) scoring: shard::TextScoring,
    /// Who answered.
    pub(super) sites: Sites,
    /// For `explain`.
    pub(super) plan: v1::TextPlan,
}

/// Weighs the words of `query`.
pub(super) async fn weigh(
    router: &Router,
    view: &View,
    query: &TextQuery,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Weighed, Miss> {
    let mut clauses: Vec<Clause> = query.words.iter().map(own_word).collect();
    let mut ask = shard::WeighRequest { field: query.field.clone(), ..Default::default() };
    let mut cut = false;
    let mut sites: Option<Sites> = None;
    let with_kin: Vec<usize> = (0..query.words.len()).filter(|n| has_kin(&query.words[*n])).collect();
    if !with_kin.is_empty() {
        let kin = with_kin.iter().map(|n| kin_to_wire(&query.words[*n])).collect();
        let listing = shard::WeighRequest { kin, ..ask.clone() };
        let answers = ask_all(router, view, &listing, None, options, deadline).await?;
        for (place, n) in with_kin.iter().enumerate() {
            let lists = answers.iter().filter_map(|answer| answer.as_ref().ok()?.value.kin.get(place));
            cut |= choose(&query.words[*n], lists, TEXT_KIN_MAX / with_kin.len(), &mut clauses[*n]);
        }
        sites = Some(sites_of(&answers));
    }
    ask.clauses = clauses.iter().map(clause_to_wire).collect();
    let answers = ask_all(router, view, &ask, sites.as_ref(), options, deadline).await?;
    let sums = Sums::of(&answers, clauses.len());
    for (clause, containing) in clauses.iter_mut().zip(&sums.containing) {
        clause.weight = bm25::weight(sums.records, *containing);
    }
    let mean_length = bm25::mean_length(sums.records, sums.words);
    let words = query.words.iter().zip(&clauses).zip(&sums.containing);
    let words = words.map(|((kin, clause), records)| v1::TextWord {
        word: kin.word().to_owned(),
        kin: u32::try_from(clause.terms.len()).unwrap_or(u32::MAX),
        records: *records,
        weight: clause.weight,
    });
    let plan = v1::TextPlan { records: sums.records, mean_length, words: words.collect(), cut };
    let scoring = shard::TextScoring { clauses: clauses.iter().map(clause_to_wire).collect(), mean_length };
    Ok(Weighed { scoring, sites: sites_of(&answers), plan })
}

fn has_kin(word: &Kin) -> bool {
    word.is_prefix() || word.edits() > 0
}

fn own_word(kin: &Kin) -> Clause {
    Clause { terms: vec![(kin.word().to_owned(), 0)], weight: 0.0 }
}

/// Adds the kin that most records have to what a word stands for, at most so many; whether there are more.
fn choose<'a>(
    kin: &Kin,
    lists: impl Iterator<Item = &'a shard::KinList>,
    most: usize,
    clause: &mut Clause,
) -> bool {
    let mut cut = false;
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for list in lists {
        cut |= list.cut;
        for word in &list.words {
            let sum = sums.entry(&word.word).or_default();
            *sum = sum.saturating_add(word.records);
        }
    }
    sums.remove(kin.word());
    let mut ranked: Vec<(&str, u64)> = sums.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    cut |= ranked.len() > most;
    let chosen = ranked.into_iter().take(most);
    let with_edits = chosen.filter_map(|(word, _)| Some((word.to_owned(), kin.edits_to(word)?.into())));
    clause.terms.extend(with_edits);
    cut
}

/// What is added up over partitions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    records: u64,
    words: u64,
    containing: Vec<u64>,
}

impl Sums {
    fn of(answers: &[Result<Answer<shard::WeighResponse>, Status>], clauses: usize) -> Sums {
        let mut sums = Sums { containing: vec![0; clauses], ..Sums::default() };
        for answer in answers.iter().flatten() {
            sums.records = sums.records.saturating_add(answer.value.records);
            sums.words = sums.words.saturating_add(answer.value.words);
            for (sum, more) in sums.containing.iter_mut().zip(&answer.value.containing) {
                *sum = sum.saturating_add(*more);
            }
        }
        sums
    }
}

fn sites_of(answers: &[Result<Answer<shard::WeighResponse>, Status>]) -> Sites {
    let site = |answer: &Result<Answer<shard::WeighResponse>, Status>| match answer {
        Ok(answer) => Ok((answer.node, answer.value.log_index)),
        Err(why) => Err(why.clone()),
    };
    answers.iter().map(site).collect()
}

/// Asks each partition: by the views of `sites` where it answered before, not at all where it did not.
async fn ask_all(
    router: &Router,
    view: &View,
    ask: &shard::WeighRequest,
    sites: Option<&Sites>,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Vec<Result<Answer<shard::WeighResponse>, Status>>, Miss> {
    each_site(view, sites, options, |partition, at, whom| {
        let (deadline, whom) = (options.deadline(deadline), ("weigh", whom));
        Box::pin(router.fanout.call(view, partition, deadline, whom, move |mut shard, call| {
            let message = shard::WeighRequest { target: call.target(), view: at, ..ask.clone() };
            let message = call.request(message);
            async move { shard.weigh(message).await }
        }))
    })
    .await
}

/// One call to each partition, in the order of the partitions: by the view of its site where sites are known, and none where a
/// site tells why not.
pub(super) async fn each_site<'a, T>(
    view: &View,
    sites: Option<&Sites>,
    options: &'a ReadOptions,
    call: impl Fn(flotilla_proto::ids::PartitionId, LogIndex, Whom<'a>) -> BoxFuture<'a, Result<Answer<T>, Miss>>,
) -> Result<Vec<Result<Answer<T>, Status>>, Miss> {
    let mut missing: Vec<Option<Status>> = Vec::with_capacity(view.partitions.len());
    let mut calls = Vec::with_capacity(view.partitions.len());
    for (from, partition) in view.partitions.iter().enumerate() {
        match sites.and_then(|sites| sites.get(from)) {
            None => calls.push(call(partition.id, 0, Whom::Reader(options))),
            Some(Ok((node, at))) => calls.push(call(partition.id, *at, Whom::Viewer(*node, *at))),
            Some(Err(why)) => {
                missing.push(Some(why.clone()));
                continue;
            }
        }
        missing.push(None);
    }
    let mut ends = gather(calls, options.allows_partial).await?.into_iter();
    let unanswered = || Err(Status::unavailable("the partition was not asked"));
    let end = |missing: Option<Status>| match missing {
        Some(why) => Err(why),
        None => ends.next().unwrap_or_else(unanswered),
    };
    Ok(missing.into_iter().map(end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[(&str, u64)], cut: bool) -> shard::KinList {
        let word = |(word, records): &(&str, u64)| shard::KinWord { word: (*word).into(), records: *records };
        shard::KinList { words: words.iter().map(word).collect(), cut }
    }

    #[test]
    fn kin_are_chosen_by_the_records_of_all_partitions_and_ties_by_word() {
        let kin = Kin::new("disk", true, 1);
        let lists = [
            list(&[("disk", 9), ("disks", 2), ("disko", 1), ("risk", 1)], false),
            list(&[("diskette", 2), ("disko", 1), ("risk", 2)], false),
        ];
        let choose = |most: usize| {
            let mut clause = own_word(&kin);
            let cut = choose(&kin, lists.iter(), most, &mut clause);
            (clause.terms, cut)
        };
        let all = [("disk", 0), ("risk", 1), ("diskette", 0), ("disko", 0), ("disks", 0)];
        let all: Vec<(String, u32)> = all.map(|(word, edits)| (word.to_owned(), edits)).into();
        assert_eq!(choose(4), (all.clone(), false));
        assert_eq!(choose(2), (all[..3].to_vec(), true));
        let mut clause = own_word(&kin);
        assert!(super::choose(&kin, [list(&[], true)].iter(), 4, &mut clause), "a partition's list was cut");
        assert_eq!(clause.terms.len(), 1);
    }
}

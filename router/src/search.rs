//! The root search: check, scatter, merge, cut, fetch.
//!
//! Each partition gives its nearest keys first, without payload; they are merged and cut, and only the winners' payloads and
//! vectors are fetched, by the very view that was searched, on the node that has it; another replica will do if that one is
//! gone, since a record of the same version is the same record. If a winner is gone by then, the whole search runs again, a
//! bounded number of times; a hit is never left out silently.
//!
//! A search by examples first reads their vectors ([`recommend`]); one in groups asks some partitions twice
//! ([`groups`]); one for words first has them weighed by all partitions ([`text`]). A hybrid one is two searches of the same
//! views, whose hits become one list ([`fuse`]). Words found are shown from the winners' payloads ([`highlights`]), and figures
//! over the winners are counted by the views that have them ([`figures`]).

mod figures;
mod fuse;
mod groups;
mod highlights;
mod plan;
mod recommend;
mod text;

use std::collections::BTreeMap;

use flotilla_proto::convert::{decode_record, key_from_wire, key_to_wire};
use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::{Code, Status};

use self::plan::{Plan, Wanted};
use self::text::{Sites, each_site};
use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::merge::{self, Group, Partial};
use crate::placement::View;
use crate::read::options::ReadOptions;
use crate::read::records_per_call;

/// How often a search runs when winners vanish before they are fetched.
const ROUNDS: usize = 3;

/// The nearest records to a vector, or to what examples tell of, or those with the words of a query, or both.
pub async fn search(
    router: &Router,
    request: v1::SearchRequest,
    deadline: Deadline,
) -> Result<v1::SearchResponse, Status> {
    let options = ReadOptions::new(request.read.as_ref())?;
    let mut views = router.placement.views(&request.collection, deadline);
    let mut vanished = 0;
    let mut rounds = 0;
    while rounds < ROUNDS {
        let view = views.next().await?;
        match once(router, &view, &request, &options, deadline).await {
            Ok(Fetched::All(answer)) => return Ok(answer),
            Ok(Fetched::Vanished(count)) => {
                vanished = count;
                rounds += 1;
                views = router.placement.views(&request.collection, deadline);
            }
            Err(Miss::Stale) => {}
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
    let why =
        format!("{vanished} hits changed before they were fetched, {ROUNDS} times in a row; search again");
    Err(Refusal::Aborted(why).into())
}

/// The whole search by one view of the map.
async fn once(
    router: &Router,
    view: &View,
    request: &v1::SearchRequest,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Fetched<v1::SearchResponse>, Miss> {
    let mut plan = Plan::new(view, request).map_err(Status::from)?;
    if let Some(examples) = plan.examples.take() {
        let aimed =
            plan.aimed().ok_or_else(|| Status::from(Refusal::Internal("no vector to aim at".into())))?;
        plan.aim(recommend::target(router, view, examples, aimed, options, deadline).await?);
    }
    let weighed = match &plan.text {
        Some(query) => Some(text::weigh(router, view, query, options, deadline).await?),
        None => None,
    };
    let sites = weighed.as_ref().map(|weighed| weighed.sites.clone());
    let text_plan = weighed.map(|weighed| {
        plan.weighed(weighed.scoring);
        weighed.plan
    });
    let first = |target| plan.message(target);
    let ends = scatter(router, view, &first, sites.as_ref(), options, deadline).await?;
    let (parts, mut found) = split(view, ends, &plan)?;
    found.text_plan = text_plan.filter(|_| plan.explain);
    let chosen = match &plan.groups {
        None if plan.fusion.is_some() => {
            Chosen::Hits(fused(router, view, &plan, parts, &mut found, options, deadline).await?)
        }
        None => {
            let lists = parts.into_iter().map(|part| part.hits).collect();
            Chosen::Hits(plan.cut(merge::hits(lists, plan.offset, plan.limit)))
        }
        Some(_) => match groups::choose(router, view, &plan, parts, &mut found, options, deadline).await? {
            Fetched::All(groups) => Chosen::Groups(groups),
            Fetched::Vanished(count) => return Ok(Fetched::Vanished(count)),
        },
    };
    let wanted = plan.wanted(request);
    let records = match fetch(router, view, &wanted, chosen.winners(), &mut found, options, deadline).await? {
        Fetched::All(records) => records,
        Fetched::Vanished(count) => return Ok(Fetched::Vanished(count)),
    };
    let sites = figures::sites(&records, &found.views);
    let results =
        match figures::over(router, view, request, sites, &mut found.covered, options, deadline).await? {
            Fetched::All(results) => results,
            Fetched::Vanished(count) => return Ok(Fetched::Vanished(count)),
        };
    Ok(Fetched::All(answer(router, &plan, chosen, records, found, results)?))
}

/// What the answer will be made of.
enum Chosen {
    Hits(Vec<Partial>),
    Groups(Vec<Group>),
}

impl Chosen {
    /// The records to fetch, each once.
    fn winners(&self) -> Vec<Partial> {
        match self {
            Chosen::Hits(hits) => hits.clone(),
            Chosen::Groups(groups) => {
                let hits = groups.iter().flat_map(|group| &group.hits);
                let by_key: BTreeMap<&Key, &Partial> = hits.map(|hit| (&hit.key, hit)).collect();
                by_key.into_values().cloned().collect()
            }
        }
    }
}

/// Sends each partition its message; by the views of `sites` where those are known.
async fn scatter(
    router: &Router,
    view: &View,
    message: &(impl Fn(Option<shard::Target>) -> shard::SearchRequest + Sync),
    sites: Option<&Sites>,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Vec<Result<Answer<shard::SearchResponse>, Status>>, Miss> {
    let deadline = options.deadline(deadline);
    each_site(view, sites, options, |partition, at, whom| {
        Box::pin(router.fanout.call(view, partition, deadline, ("search", whom), move |mut shard, call| {
            let message = shard::SearchRequest { view: at, ..message(call.target()) };
            let message = call.request(message);
            async move { shard.search(message).await }
        }))
    })
    .await
}

/// The other search of a hybrid one, by the views of the first, and the hits of both as one list.
async fn fused(
    router: &Router,
    view: &View,
    plan: &Plan,
    parts: Vec<Part>,
    found: &mut Found,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Vec<Partial>, Miss> {
    let Some(fusion) = plan.fusion else { return Ok(vec![]) };
    let why = || Status::unavailable("the partition did not answer the first search");
    let sites: Sites = found.views.iter().map(|site| site.ok_or_else(why)).collect();
    let message = |target| plan.text_message(target);
    let ends = scatter(router, view, &message, Some(&sites), options, deadline).await?;
    let mut text = Vec::with_capacity(ends.len());
    for (from, (partition, end)) in view.partitions.iter().zip(ends).enumerate() {
        match end {
            Ok(Answer { value: mut answer, .. }) => {
                found.explained(partition.id, answer.plan.take());
                text.push(Part::new(from, plan, answer)?.hits);
            }
            Err(why) => {
                found.covered.missed(partition.id, &why);
                found.views[from] = None;
            }
        }
    }
    // What a partition found in one search only would count for half of what it has.
    let is_there = |part: &Part| found.views.get(part.from).is_some_and(Option::is_some);
    let vector = parts.into_iter().filter(is_there).map(|part| part.hits).collect();
    let candidates = fusion.candidates as usize;
    let scored = |hits: Vec<Partial>, score: &dyn Fn(f32) -> f32| -> Vec<(Partial, f32)> {
        let one = |hit: Partial| {
            let score = score(hit.distance);
            (hit, score)
        };
        hits.into_iter().map(one).collect()
    };
    let fused = fusion.fuse(
        scored(merge::hits(vector, 0, candidates), &|distance| plan.vector_score(distance)),
        scored(merge::hits(text, 0, candidates), &|distance| -distance),
    );
    let page = fused.into_iter().skip(plan.offset).take(plan.limit).collect();
    Ok(plan.cut(page))
}

/// What the first phase tells besides hits.
#[derive(Default)]
struct Found {
    covered: Covered,
    /// By ordinal of the partition: the node that answered, and its view's log index. None: it did not.
    views: Vec<Option<(NodeId, LogIndex)>>,
    plans: Vec<v1::PartitionPlan>,
    text_plan: Option<v1::TextPlan>,
    /// Whether a node gave up looking for groups.
    is_cut: bool,
}

impl Found {
    /// `partition` was searched once more.
    fn explained(&mut self, partition: PartitionId, more: Option<v1::PartitionPlan>) {
        let told = self.plans.iter_mut().find(|plan| plan.partition == partition.0);
        if let (Some(told), Some(more)) = (told, more) {
            told.plan = format!("{},{}", told.plan, more.plan);
            told.rounds += more.rounds;
            told.ef = told.ef.max(more.ef);
            told.visited += more.visited;
            told.distances += more.distances;
            told.unindexed += more.unindexed;
            told.micros += more.micros;
            told.waited_micros += more.waited_micros;
        }
    }
}

/// What one partition found.
#[derive(Default)]
struct Part {
    /// The partition's ordinal.
    from: usize,
    hits: Vec<Partial>,
    groups: Vec<Group>,
    /// Whether the node gave up looking for groups.
    is_cut: bool,
}

impl Part {
    fn new(from: usize, plan: &Plan, answer: shard::SearchResponse) -> Result<Part, Status> {
        let partial = |hit: shard::PartialHit| -> Result<Partial, Status> {
            let key = key_from_wire("hits.key", hit.key).map_err(damaged)?;
            Ok(Partial { key, distance: hit.distance, version: hit.version, from })
        };
        let partials = |hits: Vec<shard::PartialHit>| -> Result<Vec<Partial>, Status> {
            hits.into_iter().map(partial).collect()
        };
        let group = |group: shard::PartialGroup| -> Result<Group, Status> {
            let (key, value) = plan.group(group.value).map_err(damaged)?;
            Ok(Group { key, value, hits: partials(group.hits)? })
        };
        Ok(Part {
            from,
            hits: partials(answer.hits)?,
            groups: answer.groups.into_iter().map(group).collect::<Result<_, Status>>()?,
            is_cut: answer.groups_cut,
        })
    }
}

fn split(
    view: &View,
    ends: Vec<Result<Answer<shard::SearchResponse>, Status>>,
    plan: &Plan,
) -> Result<(Vec<Part>, Found), Status> {
    let mut found = Found::default();
    let mut parts = Vec::with_capacity(ends.len());
    for (from, (partition, end)) in view.partitions.iter().zip(ends).enumerate() {
        let answer = found.covered.take(partition.id, end, |answer| answer.log_index);
        found.views.push(answer.as_ref().map(|answer| (answer.node, answer.value.log_index)));
        let Some(Answer { value: mut answer, .. }) = answer else { continue };
        found.is_cut |= answer.groups_cut;
        if plan.explain {
            let mut told = answer.plan.take().unwrap_or_default();
            told.partition = partition.id.0;
            found.plans.push(told);
        }
        parts.push(Part::new(from, plan, answer)?);
    }
    Ok((parts, found))
}

fn damaged(violation: Violation) -> Status {
    Refusal::Internal(format!("a node's answer is damaged: {violation}")).into()
}

/// What was read of the views that were searched, or how much of it is gone.
enum Fetched<T> {
    All(T),
    Vanished(usize),
}

async fn fetch(
    router: &Router,
    view: &View,
    wanted: &Wanted,
    winners: Vec<Partial>,
    found: &mut Found,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Fetched<Vec<(Partial, v1::Record)>>, Miss> {
    let Wanted { payload: with_payload, vectors: with_vectors, .. } = *wanted;
    if !with_payload && !with_vectors {
        let bare = |winner: Partial| {
            let record = bare(&winner);
            (winner, record)
        };
        return Ok(Fetched::All(winners.into_iter().map(bare).collect()));
    }
    let mut asked_of: BTreeMap<usize, Vec<v1::Key>> = BTreeMap::new();
    for winner in &winners {
        asked_of.entry(winner.from).or_default().push(key_to_wire(&winner.key));
    }
    let chunk = records_per_call(view, with_vectors);
    let chunks: Vec<(usize, Vec<v1::Key>)> = asked_of
        .iter()
        .flat_map(|(from, keys)| keys.chunks(chunk).map(move |keys| (*from, keys.to_vec())))
        .collect();
    let asked: Vec<usize> = chunks.iter().map(|(from, _)| *from).collect();
    let deadline = options.deadline(deadline);
    let views = &found.views;
    let one = |(from, keys): (usize, Vec<v1::Key>)| -> BoxFuture<'_, _> {
        let partition = view.partitions[from].id;
        let (node, at) = views[from].unwrap_or_default();
        let whom = ("fetch", Whom::Viewer(node, at));
        Box::pin(router.fanout.call(view, partition, deadline, whom, move |mut shard, call| {
            let message = call.request(shard::GetRequest {
                target: call.target(),
                keys: keys.clone(),
                with_payload,
                with_vectors,
                view: at,
                fields: wanted.fields.clone(),
            });
            async move { shard.get(message).await }
        }))
    };
    let calls = chunks.into_iter().map(one).collect();
    let ends: Vec<Result<Answer<shard::GetResponse>, Status>> =
        match gather(calls, options.allows_partial).await {
            // The view is gone, after a restart or a change of the leader.
            Err(Miss::Failed(status)) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
                return Ok(Fetched::Vanished(winners.len()));
            }
            ends => ends?,
        };
    let mut records: BTreeMap<Key, v1::Record> = BTreeMap::new();
    for (from, end) in asked.into_iter().zip(ends) {
        let answer = match end {
            Ok(answer) => answer.value,
            Err(why) => {
                found.covered.missed(view.partitions[from].id, &why);
                found.views[from] = None;
                continue;
            }
        };
        for record in answer.records {
            let record = decode_record("records", &record).map_err(damaged)?;
            records.insert(key_from_wire("records.key", record.key.clone()).map_err(damaged)?, record);
        }
    }
    // What a partition that fell silent had found is left out, and the coverage says so.
    let there: Vec<Partial> = winners.into_iter().filter(|w| found.views[w.from].is_some()).collect();
    let count = there.len();
    let taken: Vec<(Partial, v1::Record)> = there
        .into_iter()
        .filter_map(|w| {
            let record = records.remove(&w.key).filter(|r| w.version == 0 || r.version == w.version)?;
            Some((w, record))
        })
        .collect();
    let gone = count - taken.len();
    Ok(if gone == 0 { Fetched::All(taken) } else { Fetched::Vanished(gone) })
}

fn bare(winner: &Partial) -> v1::Record {
    v1::Record { key: Some(key_to_wire(&winner.key)), version: winner.version, ..Default::default() }
}

fn answer(
    router: &Router,
    plan: &Plan,
    chosen: Chosen,
    records: Vec<(Partial, v1::Record)>,
    found: Found,
    results: BTreeMap<String, v1::AggregationResult>,
) -> Result<v1::SearchResponse, Status> {
    let highlighter = plan.highlighter();
    let hit = |winner: &Partial, mut record: v1::Record| {
        let highlights =
            highlighter.as_ref().map(|shown| shown.passages(&record.payload)).unwrap_or_default();
        record.payload = plan.shown(record.payload);
        v1::Hit { record: Some(record), score: plan.score(winner.distance), highlights }
    };
    let (mut hits, mut groups) = (Vec::new(), Vec::new());
    match chosen {
        Chosen::Hits(_) => hits.extend(records.into_iter().map(|(winner, record)| hit(&winner, record))),
        Chosen::Groups(chosen) => {
            let records: BTreeMap<Key, v1::Record> =
                records.into_iter().map(|(winner, record)| (winner.key, record)).collect();
            for group in chosen {
                let known = |winner: &Partial| Some(hit(winner, records.get(&winner.key)?.clone()));
                let hits: Vec<v1::Hit> = group.hits.iter().filter_map(known).collect();
                // One whose hits all lie in a partition that fell silent is left out with them.
                if !hits.is_empty() {
                    groups.push(v1::Group { value: Some(group.value), hits });
                }
            }
        }
    }
    Ok(v1::SearchResponse {
        hits,
        coverage: Some(router.metrics.covered("search", found.covered)?),
        plans: found.plans,
        groups,
        groups_cut: found.is_cut,
        text_plan: found.text_plan,
        results,
    })
}

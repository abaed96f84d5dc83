//! The root search: check, scatter, merge, cut, fetch.
//!
//! Each partition gives its nearest keys first, without payload; they are merged and cut, and only the winners' payloads and
//! vectors are fetched, by the very view that was searched, on the node that has it; another replica will do if that one is
//! gone, since a record of the same version is the same record. If a winner is gone by then, the whole search runs again, a
//! bounded number of times; a hit is never left out silently.

use std::collections::BTreeMap;

use flotilla_proto::convert::{filter_from_wire, key_from_wire, key_to_wire, vector_from_wire};
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::limits::{EF_MAX, LIMIT_DEFAULT, LIMIT_MAX};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::Distance;
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::{Code, Status};

use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::merge::{self, Partial};
use crate::placement::View;
use crate::read::options::ReadOptions;
use crate::read::records_per_call;

/// How often a search runs when winners vanish before they are fetched.
const ROUNDS: usize = 3;

/// The nearest records to a vector.
pub async fn search(
    router: &Router,
    request: v1::SearchRequest,
    deadline: Deadline,
) -> Result<v1::SearchResponse, Status> {
    let options = ReadOptions::new(request.read.as_ref())?;
    let mut views = router.placement.views(&request.collection, deadline);
    let mut vanished = 0;
    for _ in 0..ROUNDS {
        let (view, plan, ends) = loop {
            let view = views.next().await?;
            let plan = Plan::new(&view, &request)?;
            match scatter(router, &view, &plan, &options, deadline).await {
                Ok(ends) => break (view, plan, ends),
                Err(Miss::Stale) => {}
                Err(Miss::Failed(status)) => return Err(status),
            }
        };
        let (partials, mut found) = split(&view, ends, request.explain)?;
        let winners = plan.cut(merge::hits(partials, plan.offset, plan.limit));
        match fetch(router, &view, &request, winners, &mut found, &options, deadline).await {
            Ok(Fetched::All(records)) => return answer(router, &plan, records, found),
            Ok(Fetched::Vanished(count)) => {
                vanished = count;
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

/// A checked request.
struct Plan {
    offset: usize,
    limit: usize,
    distance: Distance,
    threshold: Option<f32>,
    partial: v1::SearchRequest,
}

impl Plan {
    fn new(view: &View, request: &v1::SearchRequest) -> Result<Plan, Violation> {
        let (name, vector) = view.spec.vector(&request.vector_name)?;
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(Violation::range("limit", 1, LIMIT_MAX, limit));
        }
        let reach = u64::from(request.offset) + u64::from(limit);
        if reach > u64::from(LIMIT_MAX) {
            return Err(Violation::range("offset + limit", 1, LIMIT_MAX, reach));
        }
        if request.ef > EF_MAX {
            return Err(Violation::range("ef", 0, EF_MAX, request.ef));
        }
        if request.score_threshold.is_some_and(f32::is_nan) {
            return Err(Violation::new("score_threshold", "is NaN, not a number"));
        }
        vector.check_values("vector", &vector_from_wire("vector", request.vector.clone())?)?;
        if let Some(filter) = &request.filter {
            Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
        }
        let partial = v1::SearchRequest {
            vector_name: name.to_owned(),
            limit: Some(reach as u32),
            offset: 0,
            with_payload: false,
            with_vectors: false,
            ..request.clone()
        };
        Ok(Plan {
            offset: request.offset as usize,
            limit: limit as usize,
            distance: vector.distance,
            threshold: request.score_threshold,
            partial,
        })
    }

    /// Leaves out what scores below the threshold.
    fn cut(&self, mut hits: Vec<Partial>) -> Vec<Partial> {
        if let Some(threshold) = self.threshold {
            hits.retain(|hit| self.distance.score(hit.distance) >= threshold);
        }
        hits
    }
}

async fn scatter(
    router: &Router,
    view: &View,
    plan: &Plan,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Vec<Result<Answer<shard::SearchResponse>, Status>>, Miss> {
    let (deadline, whom) = (options.deadline(deadline), ("search", Whom::Reader(options)));
    let one = |partition: &flotilla_proto::placement::Partition| -> BoxFuture<'_, _> {
        Box::pin(router.fanout.call(view, partition.id, deadline, whom, |mut shard, call| {
            let message = shard::SearchRequest { target: call.target(), search: Some(plan.partial.clone()) };
            let message = call.request(message);
            async move { shard.search(message).await }
        }))
    };
    gather(view.partitions.iter().map(one).collect(), options.allows_partial).await
}

/// What the first phase tells besides hits.
#[derive(Default)]
struct Found {
    covered: Covered,
    /// By ordinal of the partition: the node that answered, and its view's log index. None: it did not.
    views: Vec<Option<(NodeId, LogIndex)>>,
    plans: Vec<v1::PartitionPlan>,
}

fn split(
    view: &View,
    ends: Vec<Result<Answer<shard::SearchResponse>, Status>>,
    explain: bool,
) -> Result<(Vec<Vec<Partial>>, Found), Status> {
    let mut found = Found::default();
    let mut lists = Vec::with_capacity(ends.len());
    for (from, (partition, end)) in view.partitions.iter().zip(ends).enumerate() {
        let answer = found.covered.take(partition.id, end, |answer| answer.log_index);
        found.views.push(answer.as_ref().map(|answer| (answer.node, answer.value.log_index)));
        let Some(Answer { value: answer, .. }) = answer else { continue };
        if explain {
            let mut plan = answer.plan.unwrap_or_default();
            plan.partition = partition.id.0;
            found.plans.push(plan);
        }
        let partial = |hit: shard::PartialHit| {
            let key = key_from_wire("hits.key", hit.key).map_err(damaged)?;
            Ok(Partial { key, distance: hit.distance, version: hit.version, from })
        };
        lists.push(answer.hits.into_iter().map(partial).collect::<Result<Vec<Partial>, Status>>()?);
    }
    Ok((lists, found))
}

fn damaged(violation: Violation) -> Status {
    Refusal::Internal(format!("a node's answer is damaged: {violation}")).into()
}

/// The winners with their records, or how many are gone.
enum Fetched {
    All(Vec<(Partial, v1::Record)>),
    Vanished(usize),
}

async fn fetch(
    router: &Router,
    view: &View,
    request: &v1::SearchRequest,
    winners: Vec<Partial>,
    found: &mut Found,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Fetched, Miss> {
    if !request.with_payload && !request.with_vectors {
        let bare = |winner: Partial| {
            let record = bare(&winner);
            (winner, record)
        };
        return Ok(Fetched::All(winners.into_iter().map(bare).collect()));
    }
    let mut wanted: BTreeMap<usize, Vec<v1::Key>> = BTreeMap::new();
    for winner in &winners {
        wanted.entry(winner.from).or_default().push(key_to_wire(&winner.key));
    }
    let chunk = records_per_call(view, request.with_vectors);
    let chunks: Vec<(usize, Vec<v1::Key>)> = wanted
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
                with_payload: request.with_payload,
                with_vectors: request.with_vectors,
                view: at,
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
    records: Vec<(Partial, v1::Record)>,
    found: Found,
) -> Result<v1::SearchResponse, Status> {
    let hit = |(winner, record): (Partial, v1::Record)| v1::Hit {
        record: Some(record),
        score: plan.distance.score(winner.distance),
    };
    Ok(v1::SearchResponse {
        hits: records.into_iter().map(hit).collect(),
        coverage: Some(router.metrics.covered("search", found.covered)?),
        plans: found.plans,
    })
}

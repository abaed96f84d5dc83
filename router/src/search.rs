//! The root search: check, scatter, merge, cut, fetch.
//!
//! Each partition gives its nearest keys first, without payload; they are merged and cut, and only the winners' payloads and
//! vectors are fetched, by the very view that was searched. If a winner is gone by then, the whole search runs again, a
//! bounded number of times; a hit is never left out silently.

use std::collections::BTreeMap;

use flotilla_proto::convert::{filter_from_wire, key_from_wire, key_to_wire, vector_from_wire};
use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::{EF_MAX, LIMIT_DEFAULT, LIMIT_MAX};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::Distance;
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::{Code, Status};

use crate::Router;
use crate::admission::Deadline;
use crate::fanout::{Miss, Resend, coverage, gather};
use crate::merge::{self, Partial};
use crate::placement::View;
use crate::read::records_per_call;

/// How often a search runs when winners vanish before they are fetched.
const ROUNDS: usize = 3;

/// The nearest records to a vector.
pub async fn search(
    router: &Router,
    request: v1::SearchRequest,
    deadline: Deadline,
) -> Result<v1::SearchResponse, Status> {
    let mut views = router.placement.views(&request.collection, deadline);
    let mut vanished = 0;
    for _ in 0..ROUNDS {
        let (view, plan, answers) = loop {
            let view = views.next().await?;
            let plan = Plan::new(&view, &request)?;
            match scatter(router, &view, &plan, deadline).await {
                Ok(answers) => break (view, plan, answers),
                Err(Miss::Stale) => {}
                Err(Miss::Failed(status)) => return Err(status),
            }
        };
        let (partials, found) = split(&view, answers, request.explain)?;
        let winners = plan.cut(merge::hits(partials, plan.offset, plan.limit));
        match fetch(router, &view, &request, &winners, &found, deadline).await {
            Ok(Fetched::All(records)) => return Ok(answer(&view, &plan, winners, records, found)),
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
    deadline: Deadline,
) -> Result<Vec<shard::SearchResponse>, Miss> {
    let one = |partition: &flotilla_proto::placement::Partition| -> BoxFuture<'_, _> {
        Box::pin(router.fanout.call(view, partition.id, deadline, Resend::Freely, |mut shard, call| {
            let message = shard::SearchRequest { target: call.target(), search: Some(plan.partial.clone()) };
            let message = call.request(message);
            async move { shard.search(message).await }
        }))
    };
    gather(view.partitions.iter().map(one).collect()).await
}

/// The partitions' log indexes and plans, in the order of the partitions.
struct Found {
    indexes: Vec<u64>,
    plans: Vec<v1::PartitionPlan>,
}

fn split(
    view: &View,
    answers: Vec<shard::SearchResponse>,
    explain: bool,
) -> Result<(Vec<Vec<Partial>>, Found), Status> {
    let mut found = Found { indexes: Vec::with_capacity(answers.len()), plans: Vec::new() };
    let mut lists = Vec::with_capacity(answers.len());
    for (from, answer) in answers.into_iter().enumerate() {
        found.indexes.push(answer.log_index);
        if explain {
            let mut plan = answer.plan.unwrap_or_default();
            plan.partition = view.partitions[from].id.0;
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

/// The records of the winners, or how many are gone.
enum Fetched {
    All(Vec<v1::Record>),
    Vanished(usize),
}

async fn fetch(
    router: &Router,
    view: &View,
    request: &v1::SearchRequest,
    winners: &[Partial],
    found: &Found,
    deadline: Deadline,
) -> Result<Fetched, Miss> {
    if !request.with_payload && !request.with_vectors {
        return Ok(Fetched::All(winners.iter().map(bare).collect()));
    }
    let mut wanted: BTreeMap<usize, Vec<v1::Key>> = BTreeMap::new();
    for winner in winners {
        wanted.entry(winner.from).or_default().push(key_to_wire(&winner.key));
    }
    let chunk = records_per_call(view, request.with_vectors);
    let chunks =
        wanted.iter().flat_map(|(from, keys)| keys.chunks(chunk).map(move |keys| (*from, keys.to_vec())));
    let one = |(from, keys): (usize, Vec<v1::Key>)| -> BoxFuture<'_, _> {
        let partition = view.partitions[from].id;
        Box::pin(router.fanout.call(view, partition, deadline, Resend::Freely, move |mut shard, call| {
            let message = call.request(shard::GetRequest {
                target: call.target(),
                keys: keys.clone(),
                with_payload: request.with_payload,
                with_vectors: request.with_vectors,
                view: found.indexes[from],
            });
            async move { shard.get(message).await }
        }))
    };
    let answers: Vec<shard::GetResponse> = match gather(chunks.map(one).collect()).await {
        // The view is gone, after a restart or a change of the leader.
        Err(Miss::Failed(status)) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
            return Ok(Fetched::Vanished(winners.len()));
        }
        answers => answers?,
    };
    let mut records: BTreeMap<Key, v1::Record> = BTreeMap::new();
    for record in answers.into_iter().flat_map(|answer| answer.records) {
        records.insert(key_from_wire("records.key", record.key.clone()).map_err(damaged)?, record);
    }
    let taken: Vec<v1::Record> = winners
        .iter()
        .filter_map(|w| records.remove(&w.key).filter(|r| w.version == 0 || r.version == w.version))
        .collect();
    let gone = winners.len() - taken.len();
    Ok(if gone == 0 { Fetched::All(taken) } else { Fetched::Vanished(gone) })
}

fn bare(winner: &Partial) -> v1::Record {
    v1::Record { key: Some(key_to_wire(&winner.key)), version: winner.version, ..Default::default() }
}

fn answer(
    view: &View,
    plan: &Plan,
    winners: Vec<Partial>,
    records: Vec<v1::Record>,
    found: Found,
) -> v1::SearchResponse {
    let hit = |(winner, record): (Partial, v1::Record)| v1::Hit {
        record: Some(record),
        score: plan.distance.score(winner.distance),
    };
    let indexes = view.partitions.iter().map(|p| p.id).zip(found.indexes);
    v1::SearchResponse {
        hits: winners.into_iter().zip(records).map(hit).collect(),
        coverage: Some(coverage(view.partitions.len(), indexes)),
        plans: found.plans,
    }
}

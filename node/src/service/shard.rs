//! The partitions' service: one file, because every verb begins with the same question, whether the caller means what this
//! node has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::convert::{
    aggregations_from_wire, check_effort, filter_from_wire, key_from_wire, key_to_wire, placement_to_wire,
    value_from_wire, value_to_wire, vector_from_wire,
};
use flotilla_proto::filter::Compiled;
use flotilla_proto::group::{GroupBy, group_size};
use flotilla_proto::ids::{CollectionId, Epoch, PartitionId};
use flotilla_proto::limits::{EXAMPLES_MAX, LAG_MS_MAX, LIMIT_DEFAULT, LIMIT_MAX};
use flotilla_proto::order::OrderBy;
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::projection::Projection;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{CollectionSpec, Hnsw, at_most, check_key_prefix};
use flotilla_proto::shard::write_request::Command;
use flotilla_proto::shard::{self, shard_server};
use flotilla_proto::v1;
use flotilla_trace::Timings;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::fulltext::{text_from_wire, weighing_from_wire, weights_to_wire};
use super::write::{part_from_wire, written_to_wire};
use super::{replace, time_left, within};
use crate::env::clock::{self, Instant};
use crate::machine::command::RequestId;
use crate::meta::Meta;
use crate::partition::answers::Question;
use crate::partition::fresh::{Consistency, Fresh};
use crate::partition::registry::Registry;
use crate::partition::{Aggregate, Groups, Owned, Parts, Replica, Scan, Search, Searched, Start};
use crate::query::{self, Stretch};
use crate::storage::vectors;

/// How long a caller may wait for this node to learn of a newer map, at most: another node may know it.
const FOLLOW_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct ShardService {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    max_lag: Duration,
    timings: Option<Timings>,
}

/// A read or a write of one partition that is timed if it ends well.
struct Timed<'a> {
    timings: Option<&'a Timings>,
    class: &'static str,
    partition: u64,
    came: Instant,
}

impl Timed<'_> {
    fn answered(self) {
        if let Some(timings) = self.timings {
            let seconds = (clock::now() - self.came).as_secs_f64();
            timings.observe(&[&self.partition.to_string(), self.class], seconds);
        }
    }
}

impl ShardService {
    /// Over this node's replicas, with the lag that a bounded read allows where it names none.
    pub fn new(
        registry: Arc<Registry>,
        meta: Arc<Meta>,
        max_lag: Duration,
        timings: Option<Timings>,
    ) -> ShardService {
        ShardService { registry, meta, max_lag, timings }
    }

    /// How fresh the caller wants the answer, which it awaits for `left`.
    fn fresh(&self, target: Option<&shard::Target>, left: Duration) -> Result<Fresh, Violation> {
        let fresh = target.and_then(|target| target.fresh).unwrap_or_default();
        let consistency = match v1::Consistency::try_from(fresh.consistency) {
            Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => Consistency::Linearizable,
            Ok(v1::Consistency::Any) => Consistency::Any,
            Ok(v1::Consistency::Bounded) => match fresh.max_lag_ms {
                0 => Consistency::Bounded(self.max_lag),
                lag @ 1..=LAG_MS_MAX => Consistency::Bounded(Duration::from_millis(lag)),
                lag => return Err(Violation::range("target.fresh.max_lag_ms", 1, LAG_MS_MAX, lag)),
            },
            Err(_) => return Err(Violation::range("target.fresh.consistency", 0, 3, fresh.consistency)),
        };
        Ok(Fresh { consistency, at_least: fresh.at_least, within: left })
    }

    fn timed(&self, class: &'static str, target: Option<&shard::Target>) -> Timed<'_> {
        let partition = target.map_or(0, |target| target.partition);
        Timed { timings: self.timings.as_ref(), class, partition, came: clock::now() }
    }

    /// Waits until this node knows the collection as it is at `epoch`, so that all partitions of one request are read at
    /// one epoch of their collection.
    async fn know(&self, collection: CollectionId, epoch: Epoch, within: Duration) -> Result<(), Refusal> {
        let known = |map: &PlacementMap| map.collection_by_id(collection).map(|placement| placement.epoch);
        let is_there = |map: &Arc<PlacementMap>| map.epoch >= epoch || known(map) >= Some(epoch);
        // As a rule the node is as far as its callers: no need to watch.
        if is_there(&self.meta.map()) {
            return Ok(());
        }
        let mut maps = self.meta.watch();
        let wait = maps.wait_for(is_there);
        match tokio::time::timeout(within, wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Unavailable("the node is stopping".to_owned())),
            Err(_) => {
                Err(Refusal::Unavailable(format!("this node does not know the map at epoch {epoch} yet")))
            }
        }
    }

    /// The replica that the caller means, if the caller's map is new enough for it.
    ///
    /// With it comes what the partition owns by the collection's placement at the caller's epoch: all partitions that
    /// answer one request go by the same one.
    async fn target(
        &self,
        target: Option<shard::Target>,
        left: Duration,
    ) -> Result<(Arc<Replica>, Arc<Owned>), Refusal> {
        let target = target.ok_or_else(|| Violation::new("target", "is missing"))?;
        let collection: CollectionId = target.collection_id.parse().map_err(|_| {
            Violation::new("target.collection_id", format!("`{}` is not an id", target.collection_id))
        })?;
        let id = PartitionId(target.partition);
        flotilla_trace::about(id.0, &collection);
        let within = left.min(FOLLOW_MAX);
        self.know(collection, Epoch(target.epoch), within).await?;
        let replica = self.registry.replica(id, Epoch(target.epoch), left).await?;
        let map = self.meta.map();
        let placement = map.collection_by_id(collection);
        let is_current = placement.is_some_and(|p| {
            p.epoch.0 <= target.epoch && p.partitions.iter().any(|partition| partition.id == id)
        });
        match (replica, placement) {
            (Some(replica), Some(placement)) if is_current && replica.collection() == collection => {
                // The map is known before the replicas follow it.
                if *replica.spec() != placement.spec {
                    self.registry.wait_for(placement.epoch, within).await?;
                }
                let mut owned = replica.owned();
                if owned.epoch != placement.epoch {
                    replica.follow(placement);
                    owned = replica.owned();
                }
                Ok((replica, owned))
            }
            (_, placement) => Err(Refusal::StaleEpoch {
                seen: target.epoch,
                current: map.epoch.0,
                placement: placement.map(placement_to_wire).map(Box::new),
            }),
        }
    }
}

pub(super) fn keys_from_wire(keys: Vec<v1::Key>) -> Result<Vec<Key>, Violation> {
    keys.into_iter().enumerate().map(|(n, key)| key_from_wire(&format!("keys[{n}]"), Some(key))).collect()
}

fn compiled(filter: Option<v1::Filter>, spec: &CollectionSpec) -> Result<Option<Compiled>, Violation> {
    filter.map(|filter| Compiled::new(&filter_from_wire(filter)?, spec)).transpose()
}

/// In which order a page goes, and where it begins.
fn start_from_wire(request: shard::ScanRequest, spec: &CollectionSpec) -> Result<Start, Violation> {
    let shard::ScanRequest { order_by, descending, after, after_place, key_prefix, .. } = request;
    if order_by.is_empty() {
        let after = after.map(|key| key_from_wire("after", Some(key))).transpose()?;
        let prefix = Some(key_prefix).filter(|prefix| !prefix.is_empty());
        prefix.iter().try_for_each(|prefix| check_key_prefix("key_prefix", prefix))?;
        return Ok(Start::Key(Stretch { after, prefix }));
    }
    if !key_prefix.is_empty() {
        return Err(Violation::new("key_prefix", "goes with the order of keys, not with order_by"));
    }
    let order = OrderBy::new(&order_by, descending, spec)?;
    Ok(Start::Place(order, Some(after_place).filter(|place| !place.is_empty())))
}

fn search_from_wire(request: shard::SearchRequest, spec: &CollectionSpec) -> Result<Search, Violation> {
    let search = request.search.ok_or_else(|| Violation::new("search", "is missing"))?;
    if search.recommend.is_some() {
        return Err(Violation::new("search.recommend", "is the router's to answer"));
    }
    check_effort(&search)?;
    let limit = search.limit.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MAX {
        return Err(Violation::range("limit", 1, LIMIT_MAX, limit));
    }
    at_most("without", "keys", EXAMPLES_MAX, request.without.len())?;
    let without = request.without.into_iter().map(|key| key_from_wire("without", Some(key)));
    let groups = match search.group_by.as_str() {
        "" => None,
        field => Some(groups_from_wire(field, search.group_size, limit, request.groups, spec)?),
    };
    let mut asked = Search {
        filter: compiled(search.filter, spec)?,
        limit: limit as usize,
        target_recall: search.target_recall,
        oversampling: search.oversampling,
        exact: search.exact,
        without: without.collect::<Result<_, _>>()?,
        groups,
        ..Search::default()
    };
    if let Some(text) = &search.text {
        asked.text = Some(text_from_wire(text, request.scoring, spec)?);
        asked.max_distance = search.score_threshold.map(|score| -score);
        return Ok(asked);
    }
    let (name, vector) = spec.vector(&search.vector_name)?;
    let query = vector_from_wire("vector", search.vector)?;
    vector.check_vector("vector", &query)?;
    let ef = match (search.ef, vector.index.hnsw()) {
        (0, Some(hnsw)) => hnsw.ef_search,
        (0, None) => Hnsw::default().ef_search,
        (ef, _) => ef,
    };
    let max_distance = search.score_threshold.map(|score| vector.farthest(score));
    let query = vectors::query(vector, &query);
    Ok(Search { vector: name.to_owned(), query, ef: ef as usize, max_distance, ..asked })
}

/// The groups of a search by `field`: of these values, or the nearest if none is named.
fn groups_from_wire(
    field: &str,
    size: u32,
    limit: u32,
    only: Vec<v1::Value>,
    spec: &CollectionSpec,
) -> Result<Groups, Violation> {
    let by = GroupBy::new(field, spec)?;
    let size = group_size(size, limit)? as usize;
    at_most("groups", "values", limit as usize, only.len())?;
    let key = |value: v1::Value| {
        let value = value_from_wire("groups", value)?;
        by.key(&value).ok_or_else(|| Violation::new("groups", format!("{} is no group", value.type_name())))
    };
    let only = only.into_iter().map(key).collect::<Result<BTreeSet<_>, Violation>>()?;
    Ok(Groups { by, size, only: (!only.is_empty()).then_some(only) })
}

/// What is to come with a record: fields that are named come, whether or not the payload is asked for.
fn parts_from_wire(with_payload: bool, fields: &[String], with_vectors: bool) -> Result<Parts, Violation> {
    let fields = Projection::new(fields)?;
    Ok(Parts { payload: with_payload || fields.is_some(), fields, vectors: with_vectors })
}

fn hit_to_wire(hit: &query::PartialHit) -> shard::PartialHit {
    shard::PartialHit { key: Some(key_to_wire(&hit.key)), distance: hit.distance, version: hit.version }
}

/// The request without what does not change the partition's answer: what decides it is left, to the bit.
fn question_from_wire(request: &mut shard::SearchRequest) -> Vec<u8> {
    request.view = 0;
    if let Some(search) = &mut request.search {
        (search.explain, search.with_payload, search.with_vectors) = (false, false, false);
        (search.read, search.highlight) = (None, None);
        search.fields.clear();
        search.aggregations.clear();
    }
    request.encode_to_vec()
}

fn plan_to_wire(
    partition: PartitionId,
    plan: &query::PlanReport,
    cached: Option<Duration>,
) -> v1::PartitionPlan {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    v1::PartitionPlan {
        partition: partition.0,
        plan: plan.words(),
        segments: plan.segments,
        distances: plan.distances,
        unindexed: plan.unindexed,
        matches: plan.matches,
        visited: plan.visited,
        micros: if cached.is_some() { 0 } else { plan.micros },
        waited_micros: cached.map_or(plan.waited_micros, micros),
        rounds: plan.rounds,
        ef: u32::try_from(plan.ef()).unwrap_or(u32::MAX),
        cached: cached.is_some(),
    }
}

#[tonic::async_trait]
impl shard_server::Shard for ShardService {
    async fn write(
        &self,
        request: Request<shard::WriteRequest>,
    ) -> Result<Response<shard::WriteResponse>, Status> {
        let left = time_left(&request);
        let shard::WriteRequest { target, request, command } = request.into_inner();
        let request = request.filter(|r| r.client != 0);
        let request = request.map(|r| RequestId { client: r.client, serial: r.serial });
        let epoch = Epoch(target.as_ref().map_or(0, |target| target.epoch));
        let timed = self.timed("write", target.as_ref());
        let written = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            if let Some(Command::Replace(step)) = command {
                return replace::step(&replica, &owned, epoch, request, step).await;
            }
            let (write, places) = part_from_wire(command)?.into_write();
            Ok(written_to_wire(replica.write(request, write, &owned).await?, &places))
        })
        .await?;
        timed.answered();
        Ok(Response::new(written))
    }

    async fn search(
        &self,
        request: Request<shard::SearchRequest>,
    ) -> Result<Response<shard::SearchResponse>, Status> {
        let left = time_left(&request);
        let mut request = request.into_inner();
        let target = request.target.take();
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        let (explain, view) = (request.search.as_ref().is_some_and(|search| search.explain), request.view);
        let (id, found) = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            let spec = replica.spec();
            let question = Question::new(replica.id(), question_from_wire(&mut request), spec.clone());
            let search = search_from_wire(request, &spec)?;
            let found = replica.search(search, Some(question), view, fresh, &owned).await?;
            Ok((replica.id(), found))
        })
        .await?;
        timed.answered();
        let Searched { answer, at: log_index, cached } = found;
        let group = |group: &query::Group| shard::PartialGroup {
            value: Some(value_to_wire(&group.value)),
            hits: group.hits.iter().map(hit_to_wire).collect(),
        };
        Ok(Response::new(shard::SearchResponse {
            hits: answer.hits.iter().map(hit_to_wire).collect(),
            log_index,
            plan: explain.then(|| plan_to_wire(id, &answer.plan, cached)),
            groups: answer.groups.iter().map(group).collect(),
            groups_cut: answer.is_cut,
        }))
    }

    async fn weigh(
        &self,
        request: Request<shard::WeighRequest>,
    ) -> Result<Response<shard::WeighResponse>, Status> {
        let left = time_left(&request);
        let mut request = request.into_inner();
        let (target, view) = (request.target.take(), request.view);
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        let (weights, log_index) = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            let ask = weighing_from_wire(request, &replica.spec())?;
            replica.weigh(ask, view, fresh, &owned).await
        })
        .await?;
        timed.answered();
        Ok(Response::new(weights_to_wire(weights, log_index)))
    }

    async fn get(&self, request: Request<shard::GetRequest>) -> Result<Response<shard::GetResponse>, Status> {
        let left = time_left(&request);
        let shard::GetRequest { target, keys, with_payload, with_vectors, view, fields } =
            request.into_inner();
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        let (records, log_index) = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            let parts = parts_from_wire(with_payload, &fields, with_vectors)?;
            replica.get(keys_from_wire(keys)?, parts, view, fresh, &owned).await
        })
        .await?;
        timed.answered();
        Ok(Response::new(shard::GetResponse { records, log_index }))
    }

    async fn scan(
        &self,
        request: Request<shard::ScanRequest>,
    ) -> Result<Response<shard::ScanResponse>, Status> {
        let left = time_left(&request);
        let mut request = request.into_inner();
        let (target, filter) = (request.target.take(), request.filter.take());
        let (limit, view, keep) = (request.limit, request.view, request.keep);
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        if limit == 0 || limit > LIMIT_MAX {
            return Err(Violation::range("limit", 1, LIMIT_MAX, limit).into());
        }
        let parts = parts_from_wire(request.with_payload, &request.fields, request.with_vectors)?;
        let page = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            let spec = replica.spec();
            let filter = compiled(filter, &spec)?;
            let from = start_from_wire(request, &spec)?;
            let scan = Scan { filter, from, limit: limit as usize, parts, keep };
            replica.scan(scan, view, fresh, &owned).await
        })
        .await?;
        timed.answered();
        Ok(Response::new(shard::ScanResponse {
            records: page.records,
            more: page.more,
            log_index: page.at,
            places: page.places,
        }))
    }

    async fn count(
        &self,
        request: Request<shard::CountRequest>,
    ) -> Result<Response<shard::CountResponse>, Status> {
        let left = time_left(&request);
        let shard::CountRequest { target, filter } = request.into_inner();
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        let (count, log_index) = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            replica.count(compiled(filter, &replica.spec())?, fresh, &owned).await
        })
        .await?;
        timed.answered();
        Ok(Response::new(shard::CountResponse { count, log_index }))
    }

    async fn aggregate(
        &self,
        request: Request<shard::AggregateRequest>,
    ) -> Result<Response<shard::AggregateResponse>, Status> {
        let left = time_left(&request);
        let shard::AggregateRequest { target, filter, aggregations, view } = request.into_inner();
        let fresh = self.fresh(target.as_ref(), left)?;
        let timed = self.timed("read", target.as_ref());
        let (counted, log_index) = within(left, async {
            let (replica, owned) = self.target(target, left).await?;
            let spec = replica.spec();
            let aggregations = aggregations_from_wire(aggregations, &spec)?;
            let ask = Aggregate { aggregations, filter: compiled(filter, &spec)? };
            replica.aggregate(ask, view, fresh, &owned).await
        })
        .await?;
        timed.answered();
        let counted = counted.encode().map_err(|why| Refusal::Internal(format!("the figures: {why}")))?;
        Ok(Response::new(shard::AggregateResponse { counted, log_index }))
    }

    async fn import(
        &self,
        request: Request<shard::ImportRequest>,
    ) -> Result<Response<shard::ImportResponse>, Status> {
        let left = time_left(&request);
        let shard::ImportRequest { target, command } = request.into_inner();
        let answer = within(left, async {
            let (replica, _) = self.target(target, left).await?;
            replica.import(&command).await
        })
        .await?;
        Ok(Response::new(shard::ImportResponse { answer }))
    }

    async fn digests(
        &self,
        request: Request<shard::DigestsRequest>,
    ) -> Result<Response<shard::DigestsResponse>, Status> {
        let left = time_left(&request);
        let shard::DigestsRequest { target, deep } = request.into_inner();
        let replicas = within(left, async {
            let (replica, _) = self.target(target, left).await?;
            super::digests::of(&replica, deep, left).await
        })
        .await?;
        Ok(Response::new(shard::DigestsResponse { replicas }))
    }

    async fn status(
        &self,
        request: Request<shard::StatusRequest>,
    ) -> Result<Response<shard::StatusResponse>, Status> {
        let left = time_left(&request);
        let (replica, _) = within(left, self.target(request.into_inner().target, left)).await?;
        let status = replica.status();
        let (_, log_index) = replica.numbers();
        let (vectors_per_second, eta) = replica.pace(&status);
        let eta_ms = eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX));
        let indexing = v1::PartitionIndexing {
            partition: replica.id().0,
            records: status.records,
            unindexed_vectors: status.unindexed_vectors,
            waiting_vectors: status.waiting_vectors,
            progress: f64::from(status.index_progress),
            vectors_per_second,
            eta_ms,
            stale_records: status.stale_records,
        };
        let status = v1::CollectionStatus {
            records: status.records,
            segments: status.segments,
            growing_records: status.growing_rows,
            unindexed_vectors: status.unindexed_vectors,
            disk_bytes: status.disk_bytes,
            index_progress: f64::from(status.index_progress),
            coverage: None,
            index_eta_ms: eta_ms,
            indexing: vec![indexing],
            stale_records: status.stale_records,
        };
        Ok(Response::new(shard::StatusResponse { status: Some(status), log_index }))
    }
}

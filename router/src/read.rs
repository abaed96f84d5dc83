//! The other reads: get by key, count, and a collection's status. Pages stand in [`scan`].

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod options;
pub mod scan;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::convert::{collection_to_wire, filter_from_wire, key_from_wire, key_of_encoded};
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::PartitionId;
use flotilla_proto::limits::{BATCH_MAX, MESSAGE_BYTES_MAX};
use flotilla_proto::placement::Partition;
use flotilla_proto::projection::Projection;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{VectorSpec, at_most, check_key};
use flotilla_proto::{passed, shard, v1};
use futures::future::BoxFuture;
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather, settle};
use crate::placement::View;
use crate::read::options::ReadOptions;

/// A status waits no longer than this for a partition.
const STATUS_MAX: Duration = Duration::from_secs(5);

/// Records that a node is asked for at once, so that its answer fits a message with the vectors that they may have.
pub(crate) fn records_per_call(view: &View, with_vectors: bool) -> usize {
    if !with_vectors {
        return BATCH_MAX;
    }
    let bytes: usize = view.spec.vectors.values().map(VectorSpec::bytes_max).sum();
    (MESSAGE_BYTES_MAX / 2 / bytes.max(1)).clamp(1, BATCH_MAX)
}

/// The records of these keys, in the order asked for.
pub async fn get(
    router: &Router,
    request: v1::GetRequest,
    deadline: Deadline,
) -> Result<passed::GetResponse, Status> {
    at_most("keys", "keys", BATCH_MAX, request.keys.len())?;
    let keys: Vec<Key> = request
        .keys
        .iter()
        .enumerate()
        .map(|(n, key)| {
            let at = format!("keys[{n}]");
            let key = key_from_wire(&at, Some(key.clone()))?;
            check_key(&at, &key)?;
            Ok(key)
        })
        .collect::<Result<_, flotilla_proto::refusal::Violation>>()?;
    Projection::new(&request.fields)?;
    let options = ReadOptions::new(request.read.as_ref())?;
    let mut views = router.placement.views(&request.collection, deadline);
    loop {
        let view = views.next().await?;
        match get_once(router, &view, &request, &keys, &options, deadline).await {
            Ok(answer) => return Ok(answer),
            Err(Miss::Stale) => {}
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
}

/// The same, by one view of the map; the request and its keys are checked, and what it says of itself means nothing
/// here.
pub(crate) async fn get_once(
    router: &Router,
    view: &View,
    request: &v1::GetRequest,
    keys: &[Key],
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<passed::GetResponse, Miss> {
    let deadline = options.deadline(deadline);
    let mut wanted: BTreeMap<PartitionId, Vec<v1::Key>> = BTreeMap::new();
    for (key, wire) in keys.iter().zip(&request.keys) {
        let owner =
            view.partition_of(key).ok_or_else(|| Status::internal("the map gives a key no partition"))?;
        wanted.entry(owner.id).or_default().push(wire.clone());
    }
    let chunk = records_per_call(view, request.with_vectors);
    let chunks = wanted.iter().flat_map(|(p, keys)| keys.chunks(chunk).map(move |keys| (*p, keys.to_vec())));
    let chunks: Vec<(PartitionId, Vec<v1::Key>)> = chunks.collect();
    let asked: Vec<PartitionId> = chunks.iter().map(|(partition, _)| *partition).collect();
    let one = |(partition, keys): (PartitionId, Vec<v1::Key>)| -> BoxFuture<'_, _> {
        let whom = ("get", Whom::Reader(options));
        Box::pin(router.fanout.call(view, partition, deadline, whom, move |mut shard, call| {
            let message = call.request(shard::GetRequest {
                target: call.target(),
                keys: keys.clone(),
                with_payload: request.with_payload,
                with_vectors: request.with_vectors,
                view: 0,
                fields: request.fields.clone(),
            });
            async move { shard.get(message).await }
        }))
    };
    let ends = gather(chunks.into_iter().map(one).collect(), options.allows_partial).await?;
    let mut covered = Covered::default();
    let mut found: HashMap<Key, Bytes> = HashMap::new();
    for (partition, end) in asked.into_iter().zip(ends) {
        let Some(answer) = covered.take(partition, end, |answer: &shard::GetResponse| answer.log_index)
        else {
            continue;
        };
        for record in answer.value.records {
            found.insert(key_of_encoded("record.key", &record).map_err(Status::from)?, record);
        }
    }
    let records = keys.iter().filter_map(|key| found.get(key).cloned()).collect();
    Ok(passed::GetResponse { records, coverage: Some(router.metrics.covered("get", covered)?) })
}

/// How many records pass the filter.
pub async fn count(
    router: &Router,
    request: v1::CountRequest,
    deadline: Deadline,
) -> Result<v1::CountResponse, Status> {
    let options = ReadOptions::new(request.read.as_ref())?;
    let mut views = router.placement.views(&request.collection, deadline);
    loop {
        let view = views.next().await?;
        check_filter(&view, request.filter.as_ref())?;
        let time = options.deadline(deadline);
        let whom = ("count", Whom::Reader(&options));
        let one = |partition: &Partition| -> BoxFuture<'_, _> {
            Box::pin(router.fanout.call(&view, partition.id, time, whom, |mut shard, call| {
                let message = shard::CountRequest { target: call.target(), filter: request.filter.clone() };
                let message = call.request(message);
                async move { shard.count(message).await }
            }))
        };
        let calls = view.partitions.iter().map(one).collect();
        let ends = match gather(calls, options.allows_partial).await {
            Ok(ends) => ends,
            Err(Miss::Stale) => continue,
            Err(Miss::Failed(status)) => return Err(status),
        };
        let mut covered = Covered::default();
        let mut count = 0;
        for (partition, end) in view.partitions.iter().zip(ends) {
            let answer = covered.take(partition.id, end, |answer: &shard::CountResponse| answer.log_index);
            count += answer.map_or(0, |answer| answer.value.count);
        }
        return Ok(v1::CountResponse { count, coverage: Some(router.metrics.covered("count", covered)?) });
    }
}

/// Refuses a filter that does not fit the collection, before a node is asked.
pub(crate) fn check_filter(view: &View, filter: Option<&v1::Filter>) -> Result<(), Status> {
    if let Some(filter) = filter {
        Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
    }
    Ok(())
}

/// The collection and the sums over the partitions that answer; the coverage tells which did.
pub async fn collection_status(
    router: &Router,
    name: &str,
    deadline: Deadline,
) -> Result<v1::GetCollectionResponse, Status> {
    let deadline = deadline.at_most(STATUS_MAX);
    let options = ReadOptions::whole_or_part();
    let mut views = router.placement.views(name, deadline);
    loop {
        let view = views.next().await?;
        let time = options.deadline(deadline);
        let whom = ("status", Whom::Reader(&options));
        let one = |partition: &Partition| -> BoxFuture<'_, _> {
            Box::pin(router.fanout.call(&view, partition.id, time, whom, |mut shard, call| {
                let message = call.request(shard::StatusRequest { target: call.target() });
                async move { shard.status(message).await }
            }))
        };
        let ends = settle(view.partitions.iter().map(one).collect()).await;
        if ends.iter().any(|end| matches!(end, Err(Miss::Stale))) {
            continue;
        }
        let status = sum(view.partitions.iter().map(|p| p.id).zip(ends))?;
        return Ok(v1::GetCollectionResponse {
            collection: Some(collection_to_wire(&view)),
            status: Some(status),
        });
    }
}

/// One status of many. The progress of indexing is weighted by records.
fn sum(
    ends: impl Iterator<Item = (PartitionId, Result<Answer<shard::StatusResponse>, Miss>)>,
) -> Result<v1::CollectionStatus, Status> {
    let mut total = v1::CollectionStatus { index_eta_ms: Some(0), ..Default::default() };
    let mut covered = Covered::default();
    let (mut answered, mut weights, mut progress) = (0, 0.0, 0.0);
    let mut failure = None;
    for (partition, end) in ends {
        match end {
            Ok(Answer { value, node }) => {
                answered += 1;
                covered.answered(partition, value.log_index, node);
                let part = value.status.unwrap_or_default();
                let weight = part.records.max(1) as f64;
                weights += weight;
                progress += weight * part.index_progress;
                total.records += part.records;
                total.segments += part.segments;
                total.growing_records += part.growing_records;
                total.unindexed_vectors += part.unindexed_vectors;
                total.disk_bytes += part.disk_bytes;
                total.stale_records += part.stale_records;
                // The last one to end decides; one that does not know leaves the whole unknown.
                total.index_eta_ms =
                    total.index_eta_ms.zip(part.index_eta_ms).map(|(longest, more)| longest.max(more));
                total.indexing.extend(part.indexing);
            }
            Err(Miss::Failed(status)) => {
                covered.missed(partition, &status);
                failure = Some(status);
            }
            Err(Miss::Stale) => {}
        }
    }
    match failure {
        Some(status) if answered == 0 => Err(status),
        None if answered == 0 => Err(Refusal::Internal("the collection has no partitions".into()).into()),
        _ => {
            total.index_progress = progress / f64::max(weights, 1.0);
            total.coverage = Some(covered.told()?);
            Ok(total)
        }
    }
}

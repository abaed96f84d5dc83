//! Figures over the records that pass: every partition counts, and what they counted is added.

use flotilla_proto::aggregate::{Counted, Named};
use flotilla_proto::convert::{aggregations_from_wire, counted_to_wire};
use flotilla_proto::placement::Partition;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::placement::View;
use crate::read::check_filter;
use crate::read::options::ReadOptions;

/// What the request asks to be counted.
pub async fn aggregate(
    router: &Router,
    request: v1::AggregateRequest,
    deadline: Deadline,
) -> Result<v1::AggregateResponse, Status> {
    let options = ReadOptions::new(request.read.as_ref())?;
    let mut views = router.placement.views(&request.collection, deadline);
    loop {
        let view = views.next().await?;
        check_filter(&view, request.filter.as_ref())?;
        let aggregations = aggregations_from_wire(request.aggregations.clone(), &view.spec)?;
        match once(router, &view, &request, &aggregations, &options, deadline).await {
            Ok(answer) => return Ok(answer),
            Err(Miss::Stale) => {}
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
}

/// The same, by one view of the map.
async fn once(
    router: &Router,
    view: &View,
    request: &v1::AggregateRequest,
    aggregations: &[Named],
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<v1::AggregateResponse, Miss> {
    let deadline = options.deadline(deadline);
    let whom = ("aggregate", Whom::Reader(options));
    let one = |partition: &Partition| -> BoxFuture<'_, Result<Answer<_>, Miss>> {
        Box::pin(router.fanout.call(view, partition.id, deadline, whom, |mut shard, call| {
            let message = call.request(shard::AggregateRequest {
                target: call.target(),
                filter: request.filter.clone(),
                aggregations: request.aggregations.clone(),
                view: 0,
            });
            async move { shard.aggregate(message).await }
        }))
    };
    let ends = gather(view.partitions.iter().map(one).collect(), options.allows_partial).await?;
    let mut covered = Covered::default();
    let mut whole = Counted::new(aggregations);
    let unsound = |why| Status::from(Refusal::Internal(format!("{why}")));
    for (partition, end) in view.partitions.iter().zip(ends) {
        let answer = covered.take(partition.id, end, |answer: &shard::AggregateResponse| answer.log_index);
        let Some(answer) = answer else { continue };
        let counted = Counted::decode(&answer.value.counted, aggregations).map_err(unsound)?;
        whole.merge(counted).map_err(unsound)?;
    }
    let mut answer = counted_to_wire(aggregations, whole).map_err(Status::from)?;
    answer.coverage = Some(router.metrics.covered("aggregate", covered)?);
    Ok(answer)
}

//! Figures over the hits: counted by the partitions, each over its own winners, in the very views that were searched.

use std::collections::BTreeMap;

use flotilla_proto::aggregate::Counted;
use flotilla_proto::convert::{aggregations_from_wire, counted_to_wire, filter_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::{shard, v1};
use futures::future::BoxFuture;
use tonic::{Code, Status};

use super::Fetched;
use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::merge::Partial;
use crate::placement::View;
use crate::read::options::ReadOptions;

/// The winners of one partition: its ordinal, the node and the view that have them, and their keys.
pub(super) struct Site {
    from: usize,
    node: NodeId,
    at: LogIndex,
    keys: Vec<Key>,
}

/// Where the winners are.
pub(super) fn sites(records: &[(Partial, v1::Record)], views: &[Option<(NodeId, LogIndex)>]) -> Vec<Site> {
    let mut keys: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
    for (winner, _) in records {
        keys.entry(winner.from).or_default().push(winner.key.clone());
    }
    let site = |(from, keys): (usize, Vec<Key>)| {
        let (node, at) = views.get(from).copied().flatten()?;
        Some(Site { from, node, at, keys })
    };
    keys.into_iter().filter_map(site).collect()
}

/// What the request asks to be counted, over these winners. A view that is gone has vanished with its winners.
pub(super) async fn over(
    router: &Router,
    view: &View,
    request: &v1::SearchRequest,
    sites: Vec<Site>,
    covered: &mut Covered,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Fetched<BTreeMap<String, v1::AggregationResult>>, Miss> {
    if request.aggregations.is_empty() {
        return Ok(Fetched::All(BTreeMap::new()));
    }
    let aggregations =
        aggregations_from_wire(request.aggregations.clone(), &view.spec).map_err(Status::from)?;
    let deadline = options.deadline(deadline);
    let one = |site: &Site| -> BoxFuture<'_, Result<Answer<_>, Miss>> {
        let (at, filter) = (site.at, filter_to_wire(&Filter::Keys(site.keys.clone())));
        let (id, whom) = (view.partitions[site.from].id, ("aggregate", Whom::Viewer(site.node, at)));
        Box::pin(router.fanout.call(view, id, deadline, whom, move |mut shard, call| {
            let message = call.request(shard::AggregateRequest {
                target: call.target(),
                filter: Some(filter.clone()),
                aggregations: request.aggregations.clone(),
                view: at,
            });
            async move { shard.aggregate(message).await }
        }))
    };
    let ends = match gather(sites.iter().map(one).collect(), options.allows_partial).await {
        // The view is gone, after a restart or a change of the leader.
        Err(Miss::Failed(status)) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
            return Ok(Fetched::Vanished(sites.iter().map(|site| site.keys.len()).sum()));
        }
        ends => ends?,
    };
    let mut whole = Counted::new(&aggregations);
    let unsound = |why| Status::from(Refusal::Internal(format!("{why}")));
    for (site, end) in sites.iter().zip(ends) {
        let answer: shard::AggregateResponse = match end {
            Ok(answer) => answer.value,
            Err(why) => {
                covered.missed(view.partitions[site.from].id, &why);
                continue;
            }
        };
        if answer.log_index != site.at {
            return Ok(Fetched::Vanished(site.keys.len()));
        }
        whole.merge(Counted::decode(&answer.counted, &aggregations).map_err(unsound)?).map_err(unsound)?;
    }
    Ok(Fetched::All(counted_to_wire(&aggregations, whole).map_err(Status::from)?.results))
}

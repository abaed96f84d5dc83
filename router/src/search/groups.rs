//! Hits in groups over all partitions.
//!
//! Each partition gives its nearest groups, as many as are wanted. The nearest groups of all are among them: whatever
//! comes before a group in the partition of its best hit comes before it everywhere. The **other** hits of such a
//! group may lie in a partition where other groups came before it, so each partition that may have more than it told
//! is asked a second time, by the view that it answered from, for the winners that it did not name.

use flotilla_proto::shard;
use futures::future::BoxFuture;
use tonic::{Code, Status};

use super::plan::Plan;
use super::{Fetched, Found, Part};
use crate::Router;
use crate::admission::Deadline;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::merge::{self, Group};
use crate::placement::View;
use crate::read::options::ReadOptions;

/// The nearest groups of all partitions, or how many groups cannot be read any more as they were.
pub(super) async fn choose(
    router: &Router,
    view: &View,
    plan: &Plan,
    mut parts: Vec<Part>,
    found: &mut Found,
    options: &ReadOptions,
    deadline: Deadline,
) -> Result<Fetched<Vec<Group>>, Miss> {
    let Some((_, size)) = plan.groups else { return Ok(Fetched::All(vec![])) };
    let winners = merge::groups(parts.iter().map(|part| part.groups.clone()).collect(), plan.limit, size);
    // Each question, with the ordinal of its partition.
    let asked: Vec<(usize, shard::SearchRequest)> =
        parts.iter().filter_map(|part| Some((part.from, second(plan, part, &winners, found)?))).collect();
    if asked.is_empty() {
        return Ok(Fetched::All(winners));
    }
    let count = winners.len();
    let deadline = options.deadline(deadline);
    let one = |(from, message): &(usize, shard::SearchRequest)| -> BoxFuture<'_, _> {
        let (node, at) = found.views[*from].unwrap_or_default();
        let (partition, message) = (view.partitions[*from].id, message.clone());
        let whom = ("search", Whom::Viewer(node, at));
        Box::pin(router.fanout.call(view, partition, deadline, whom, move |mut shard, call| {
            let message = shard::SearchRequest { target: call.target(), ..message.clone() };
            let message = call.request(message);
            async move { shard.search(message).await }
        }))
    };
    let calls = asked.iter().map(one).collect();
    let ends: Vec<Result<Answer<shard::SearchResponse>, Status>> =
        match gather(calls, options.allows_partial).await {
            Err(Miss::Failed(status)) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
                return Ok(Fetched::Vanished(count));
            }
            ends => ends?,
        };
    for ((from, _), end) in asked.iter().zip(ends) {
        let Some(part) = parts.iter_mut().find(|part| part.from == *from) else { continue };
        match end {
            Ok(Answer { value: mut answer, .. }) => {
                found.is_cut |= answer.groups_cut;
                found.explained(view.partitions[*from].id, answer.plan.take());
                part.groups.extend(Part::new(*from, plan, answer)?.groups);
            }
            Err(why) => {
                // What it told before is half of what it has: it is left out as a whole, and the coverage says so.
                found.covered.missed(view.partitions[*from].id, &why);
                found.views[*from] = None;
                part.groups.clear();
            }
        }
    }
    Ok(Fetched::All(merge::groups(parts.into_iter().map(|part| part.groups).collect(), plan.limit, size)))
}

/// What a partition is asked again; nothing if it told all that it has of the winners.
fn second(plan: &Plan, part: &Part, winners: &[Group], found: &Found) -> Option<shard::SearchRequest> {
    if part.groups.len() < plan.limit && !part.is_cut {
        return None;
    }
    let is_new = |winner: &&Group| part.groups.iter().all(|group| group.key != winner.key);
    let groups: Vec<_> = winners.iter().filter(is_new).map(|winner| winner.value.clone()).collect();
    let (_, view) = found.views.get(part.from).copied().flatten()?;
    (!groups.is_empty()).then(|| shard::SearchRequest { groups, view, ..plan.message(None) })
}

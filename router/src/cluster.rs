//! What operators ask of the cluster: plans, moves, and whether replicas are equal. Decided by the meta group and by the
//! partitions' leaders; this is only the way there.

use std::sync::Arc;

use flotilla_proto::placement::Partition;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::{shard, v1};
use futures::Stream;
use futures::future::BoxFuture;
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::fanout::{Miss, Resend, Whom, settle};
use crate::line::Line;

type Meta = MetaClient<Line>;

/// What would have to be done for a goal.
pub(crate) async fn plan(
    router: &Router,
    request: v1::PlanRequest,
    by: Deadline,
) -> Result<v1::PlanResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.plan(request).await };
    router.fanout.meta(by, Resend::Freely, request, send).await
}

/// Queues the moves of a plan.
pub(crate) async fn apply(
    router: &Router,
    request: v1::ApplyRequest,
    by: Deadline,
) -> Result<v1::ApplyResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.apply(request).await };
    router.fanout.meta(by, Resend::IfRefused, request, send).await
}

/// The moves queued, under way and lately ended.
pub(crate) async fn moves(
    router: &Router,
    request: v1::MovesRequest,
    by: Deadline,
) -> Result<v1::MovesResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.moves(request).await };
    router.fanout.meta(by, Resend::Freely, request, send).await
}

/// Pauses, resumes, aborts.
pub(crate) async fn control(
    router: &Router,
    request: v1::ControlRequest,
    by: Deadline,
) -> Result<v1::ControlResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.control(request).await };
    router.fanout.meta(by, Resend::IfRefused, request, send).await
}

/// How many shard nodes there are, should be and must be.
pub(crate) async fn status(
    router: &Router,
    request: v1::StatusRequest,
    by: Deadline,
) -> Result<v1::StatusResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.status(request).await };
    router.fanout.meta(by, Resend::Freely, request, send).await
}

/// Asks for fewer shard nodes, or for as many as there are: twice is as good as once.
pub(crate) async fn scale(
    router: &Router,
    request: v1::ScaleRequest,
    by: Deadline,
) -> Result<v1::ScaleResponse, Status> {
    let send = |mut meta: Meta, request| async move { meta.scale(request).await };
    router.fanout.meta(by, Resend::Freely, request, send).await
}

/// Compares the replicas of each partition, one collection after the other, all by one deadline: a deep comparison reads
/// every record, and only its caller knows how long that may take.
pub(crate) async fn verify(
    router: Arc<Router>,
    request: v1::VerifyRequest,
    by: Deadline,
) -> Result<impl Stream<Item = Result<v1::VerifyResponse, Status>> + Send + 'static, Status> {
    let names: Vec<String> = if request.collection.is_empty() {
        let map = router.placement.known(by).await?;
        map.collections.iter().map(|c| c.spec.name.clone()).collect()
    } else {
        vec![request.collection]
    };
    let deep = request.deep;
    let state = (router, names.into_iter());
    Ok(futures::stream::try_unfold(state, move |(router, mut names)| async move {
        let Some(name) = names.next() else { return Ok(None) };
        let answer = router.until(by, |by| verify_one(&router, &name, deep, by)).await?;
        Ok(Some((answer, (router, names))))
    }))
}

async fn verify_one(
    router: &Router,
    name: &str,
    deep: bool,
    by: Deadline,
) -> Result<v1::VerifyResponse, Status> {
    let mut views = router.placement.views(name, by);
    loop {
        let view = views.next().await?;
        let one = |partition: &Partition| -> BoxFuture<'_, _> {
            Box::pin(router.fanout.call(
                &view,
                partition.id,
                by,
                ("digests", Whom::Leader),
                move |mut shard, call| {
                    let message = call.request(shard::DigestsRequest { target: call.target(), deep });
                    async move { shard.digests(message).await }
                },
            ))
        };
        let ends = settle(view.partitions.iter().map(one).collect()).await;
        if ends.iter().any(|end| matches!(end, Err(Miss::Stale))) {
            continue;
        }
        let mut answer = v1::VerifyResponse { collection: name.to_owned(), ..Default::default() };
        for (partition, end) in view.partitions.iter().zip(ends) {
            match end {
                Ok(crate::fanout::Answer { value: shard::DigestsResponse { replicas }, .. }) => {
                    answer.divergent += divergent(&replicas);
                    answer.replicas.extend(replicas);
                }
                Err(Miss::Failed(status)) => answer.replicas.push(v1::ReplicaDigest {
                    partition: partition.id.0,
                    error: status.message().to_owned(),
                    ..Default::default()
                }),
                Err(Miss::Stale) => {}
            }
        }
        return Ok(answer);
    }
}

/// Replicas that differ from the most common digest of their partition; the first of equally common ones counts.
fn divergent(replicas: &[v1::ReplicaDigest]) -> u64 {
    let whole = || replicas.iter().filter(|r| r.error.is_empty());
    let votes = |digest: &str| whole().filter(|r| r.digest == digest).count();
    let most = whole().map(|r| votes(&r.digest)).max().unwrap_or(0);
    (whole().count() - most) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(digest: &str, error: &str) -> v1::ReplicaDigest {
        v1::ReplicaDigest { digest: digest.into(), error: error.into(), ..Default::default() }
    }

    #[test]
    fn the_minority_diverges_and_the_silent_do_not_count() {
        assert_eq!(divergent(&[]), 0);
        assert_eq!(divergent(&[replica("a", ""), replica("a", ""), replica("", "dead")]), 0);
        assert_eq!(divergent(&[replica("a", ""), replica("b", ""), replica("a", "")]), 1);
        assert_eq!(divergent(&[replica("a", ""), replica("b", "")]), 1);
    }
}

//! Digests at the edge: the leader's question to all holders, and a holder's answer.

use std::time::Duration;

use flotilla_proto::ids::{Epoch, PartitionId};
use flotilla_proto::peer;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::v1;

use crate::partition::Replica;
use crate::partition::registry::Registry;

/// Kept back of the caller's time, so that the answers that came are told although one is late.
const MARGIN: Duration = Duration::from_millis(200);

/// Every holder's digest of the partition that `replica` leads. What a holder failed with stands in its place.
pub async fn of(replica: &Replica, deep: bool, left: Duration) -> Result<Vec<v1::ReplicaDigest>, Refusal> {
    let comparison = replica.digest_now(deep, left.saturating_sub(MARGIN.min(left / 4))).await?;
    let wire = |(node, digest): (flotilla_proto::ids::NodeId, Result<String, String>)| {
        let (digest, error) =
            digest.map_or_else(|why| (String::new(), why), |digest| (digest, String::new()));
        let partition = replica.id().0;
        v1::ReplicaDigest { partition, node: node.0, log_index: comparison.index, digest, error }
    };
    Ok(comparison.digests.into_iter().map(wire).collect())
}

/// A holder's answer to the leader, which was checked to be of this cluster and to mean this node.
pub async fn answer(
    registry: &Registry,
    request: peer::DigestRequest,
    left: Duration,
) -> Result<peer::DigestResponse, Refusal> {
    let to = request.to.ok_or_else(|| Violation::new("to", "is missing"))?;
    let id = PartitionId(to.group);
    let replica = registry.replica(id, Epoch(0), left).await?;
    let replica = replica.ok_or_else(|| Refusal::NotFound("replica of partition", id.to_string()))?;
    let digest = replica.digest_or_quarantine(request.log_index, request.deep, &request.majority).await?;
    Ok(peer::DigestResponse { digest: digest.to_string(), log_index: request.log_index })
}

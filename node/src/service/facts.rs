//! What the nodes say of themselves, for plans and for whoever starts moves.

use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::peer;
use futures::StreamExt as _;

use crate::env::fs;
use crate::meta::Meta;
use crate::meta::plan::Facts;
use crate::partition::registry::Registry;
use crate::peers::Peers;

const ANSWER_MAX: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 16;

/// Facts, and the replicas that do not serve: (partition, node, why).
pub async fn gather(
    registry: &Registry,
    meta: &Meta,
    peers: &Peers,
) -> (Facts, Vec<(PartitionId, NodeId, String)>) {
    let mut facts = Facts { alive: meta.alive().into_iter().collect(), ..Facts::default() };
    let mut broken = Vec::new();
    let others: Vec<NodeId> = facts.alive.iter().copied().filter(|node| *node != peers.node()).collect();
    let mut answers: Vec<peer::StatusResponse> = futures::stream::iter(others)
        .map(|node| ask(peers, node))
        .buffer_unordered(AT_ONCE)
        .filter_map(|answer| async { answer })
        .collect()
        .await;
    answers.push(own(registry, meta, peers));
    for answer in answers {
        let node = NodeId(answer.node);
        facts.free.insert(node, answer.disk_free_bytes);
        for replica in answer.replicas {
            let id = PartitionId(replica.partition);
            if replica.quarantined.is_empty() {
                let bytes = facts.bytes.entry(id).or_default();
                *bytes = (*bytes).max(replica.disk_bytes).max(replica.memory_bytes);
            } else {
                broken.push((id, node, replica.quarantined));
            }
        }
    }
    (facts, broken)
}

async fn ask(peers: &Peers, node: NodeId) -> Option<peer::StatusResponse> {
    let mut client = peers.peer(node).ok()?;
    let mut request = tonic::Request::new(peer::StatusRequest {});
    request.set_timeout(ANSWER_MAX);
    client.status(request).await.ok().map(tonic::Response::into_inner)
}

/// How this node stands.
pub fn own(registry: &Registry, meta: &Meta, peers: &Peers) -> peer::StatusResponse {
    let status = |replica: &std::sync::Arc<crate::partition::Replica>| {
        let status = replica.status();
        peer::ReplicaStatus {
            partition: replica.id().0,
            is_leader: replica.group().leads(),
            applied: replica.group().applied(),
            disk_bytes: status.disk_bytes,
            memory_bytes: status.memory_bytes,
            records: status.records,
            quarantined: String::new(),
        }
    };
    let mut replicas: Vec<peer::ReplicaStatus> = registry.serving().iter().map(status).collect();
    replicas.extend(registry.quarantined().into_iter().map(|(partition, quarantined)| peer::ReplicaStatus {
        partition: partition.0,
        quarantined,
        ..Default::default()
    }));
    peer::StatusResponse {
        node: peers.node().0,
        disk_free_bytes: fs::free_bytes(meta.folder()).unwrap_or(0),
        memory_bytes: replicas.iter().map(|replica| replica.memory_bytes).sum(),
        replicas,
    }
}

//! How many shard nodes there are, should be and must be: what the leader of the meta group answers.

use flotilla_proto::ids::NodeId;
use flotilla_proto::placement::{Node, NodeState, PlacementMap, Role};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::v1;

use crate::meta::Meta;
use crate::meta::autoscale::Hold;
use crate::meta::catalogue::fleet;

/// The answer; by the leader, as of the call.
pub async fn status(meta: &Meta) -> Result<v1::StatusResponse, Refusal> {
    meta.read_fence().await?;
    let (map, alive) = (meta.map(), meta.alive());
    let target = meta.look(|catalogue| catalogue.fleet.target);
    let heard = map.nodes.iter().filter(|node| node.is_open() && alive.contains(&node.id)).count();
    let mut status = v1::StatusResponse {
        epoch: map.epoch.0,
        shard_nodes: fleet::staying(&map),
        shard_nodes_heard: u32::try_from(heard).unwrap_or(u32::MAX),
        shard_nodes_floor: fleet::floor(&map),
        scale_in_safe: fleet::is_scale_in_safe(&map),
        target,
        leaving: leaving(&map),
        ..Default::default()
    };
    if let Some(decision) = meta.advised() {
        status.desired_shard_nodes = decision.nodes;
        status.desired_reason = decision.reason.word().to_owned();
        status.desired_note = decision.note;
        status.hold = decision.hold.map_or("", Hold::word).to_owned();
    }
    Ok(status)
}

fn leaving(map: &PlacementMap) -> Vec<v1::LeavingNode> {
    let is_leaving = |node: &&Node| node.role == Role::Shard && node.state == NodeState::Draining;
    let told = |node: &Node| v1::LeavingNode {
        node: node.id.0,
        ordinal: node.ordinal,
        replicas: voting(map, node.id),
        released: fleet::is_released(map, node),
    };
    map.nodes.iter().filter(is_leaving).map(told).collect()
}

fn voting(map: &PlacementMap, node: NodeId) -> u64 {
    fleet::voting(map, node) as u64
}

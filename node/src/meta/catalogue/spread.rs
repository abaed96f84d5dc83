//! Which nodes get which replicas: spread over zones first, then by load against weight. Pure.

use std::collections::BTreeMap;

use flotilla_proto::ids::NodeId;
use flotilla_proto::placement::{Node, PlacementMap};

/// What a node carries already.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Voting replicas.
    pub replicas: f64,
    /// Partitions that prefer it as leader.
    pub leaders: f64,
}

/// What each node carries, as the map says once its changes are through.
pub fn loads(map: &PlacementMap) -> BTreeMap<NodeId, Load> {
    let mut loads: BTreeMap<NodeId, Load> = map.nodes.iter().map(|node| (node.id, Load::default())).collect();
    for (_, partition) in map.partitions() {
        for (n, node) in partition.wanted().into_iter().enumerate() {
            let load = loads.entry(node).or_default();
            load.replicas += 1.0;
            load.leaders += if n == 0 { 1.0 } else { 0.0 };
        }
    }
    loads
}

/// Replicas for `count` new partitions on `nodes`, of which there are at least as many as `replicas`. The first of each is
/// the preferred leader.
pub fn place(map: &PlacementMap, nodes: &[&Node], count: usize, replicas: usize) -> Vec<Vec<NodeId>> {
    let mut loads = loads(map);
    let mut placed = Vec::with_capacity(count);
    for _ in 0..count {
        let mut chosen: Vec<&Node> = Vec::with_capacity(replicas);
        while chosen.len() < replicas {
            let free = nodes.iter().copied().filter(|node| !chosen.iter().any(|c| c.id == node.id));
            let Some(next) = free.min_by(|a, b| {
                let rank = |node: &Node| (crowd(node, &chosen), relative(node, &loads), node.id);
                let (a, b) = (rank(a), rank(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
            }) else {
                break;
            };
            chosen.push(next);
        }
        lead_first(&mut chosen, &loads);
        for (n, node) in chosen.iter().enumerate() {
            let load = loads.entry(node.id).or_default();
            load.replicas += 1.0;
            load.leaders += if n == 0 { 1.0 } else { 0.0 };
        }
        placed.push(chosen.iter().map(|node| node.id).collect());
    }
    placed
}

/// How many of the chosen stand in the node's zone. No zone is a zone of its own for each node.
fn crowd(node: &Node, chosen: &[&Node]) -> usize {
    if node.zone.is_empty() { 0 } else { chosen.iter().filter(|c| c.zone == node.zone).count() }
}

fn relative(node: &Node, loads: &BTreeMap<NodeId, Load>) -> f64 {
    loads.get(&node.id).map_or(0.0, |load| load.replicas) / node.weight.max(f64::MIN_POSITIVE)
}

/// Puts the node that leads least, for its weight, in front.
fn lead_first(chosen: &mut [&Node], loads: &BTreeMap<NodeId, Load>) {
    let leads = |node: &Node| {
        loads.get(&node.id).map_or(0.0, |load| load.leaders) / node.weight.max(f64::MIN_POSITIVE)
    };
    let least = (0..chosen.len()).min_by(|a, b| {
        leads(chosen[*a]).total_cmp(&leads(chosen[*b])).then(chosen[*a].id.cmp(&chosen[*b].id))
    });
    if let Some(least) = least {
        chosen[..=least].rotate_right(1);
    }
}

/// The node that should get a replica of a partition held by `held`, if one of `nodes` may.
pub fn successor(
    map: &PlacementMap,
    nodes: &[&Node],
    held: &[NodeId],
    loads: &BTreeMap<NodeId, Load>,
) -> Option<NodeId> {
    let stays: Vec<&Node> = held.iter().filter_map(|id| map.node(*id)).collect();
    let free = nodes.iter().copied().filter(|node| !held.contains(&node.id));
    free.min_by(|a, b| {
        let rank = |node: &Node| (crowd(node, &stays), relative(node, loads), node.id);
        let (a, b) = (rank(a), rank(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
    })
    .map(|node| node.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, zone: &str, weight: f64) -> Node {
        let mut node = Node::new(NodeId(id), uuid::Uuid::from_u128(id.into()), "h:1");
        (node.zone, node.weight) = (zone.to_owned(), weight);
        node
    }

    #[test]
    fn replicas_and_leaders_are_even_and_zones_differ() {
        let nodes: Vec<Node> = (1..=6).map(|id| node(id, ["a", "b", "c"][id as usize % 3], 1.0)).collect();
        let map = PlacementMap { nodes: nodes.clone(), ..Default::default() };
        let placed = place(&map, &nodes.iter().collect::<Vec<_>>(), 12, 3);
        let mut replicas = BTreeMap::new();
        let mut leaders = BTreeMap::new();
        for partition in &placed {
            let mut zones: Vec<&str> =
                partition.iter().map(|id| map.node(*id).unwrap().zone.as_str()).collect();
            zones.sort_unstable();
            assert_eq!(zones, ["a", "b", "c"]);
            *leaders.entry(partition[0]).or_insert(0) += 1;
            partition.iter().for_each(|id| *replicas.entry(*id).or_insert(0) += 1);
        }
        assert!(replicas.values().all(|n| *n == 6), "{replicas:?}");
        assert!(leaders.values().all(|n| *n == 2), "{leaders:?}");
    }

    #[test]
    fn weights_count() {
        let nodes = [node(1, "", 1.0), node(2, "", 3.0)];
        let map = PlacementMap { nodes: nodes.to_vec(), ..Default::default() };
        let placed = place(&map, &nodes.iter().collect::<Vec<_>>(), 8, 1);
        assert_eq!(placed.iter().filter(|p| p[0] == NodeId(2)).count(), 6);
    }
}

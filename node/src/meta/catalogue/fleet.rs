//! How many shard nodes are asked for, and how many there must be.
//!
//! Shard nodes leave from the highest ordinal down, as a StatefulSet takes them. An operator asks for so many ([`Fleet::target`]);
//! the nodes beyond are drained, one request at a time, and the steward moves what they hold until they hold nothing. A node is
//! **released** when it is to leave, holds no voting replica and has no vote in the meta group: only then may its process end
//! for good. The **floor** is one more than the highest ordinal that is not released: with fewer, something would be lost.
//!
//! A request that is called off, or raised, takes the nodes back and calls off what was on its way. A node that an operator drained
//! by hand is not touched by either.

use std::collections::BTreeSet;

use flotilla_proto::ids::NodeId;
use flotilla_proto::placement::{Node, NodeState, PlacementMap, Role};
use serde::{Deserialize, Serialize};

use super::moves::Kind;
use super::{Catalogue, Outcome, Refused};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// So many shard nodes; none: as many as there are.
    pub target: Option<u32>,
    /// Those that leave for it.
    pub leaving: BTreeSet<NodeId>,
}

impl Fleet {
    /// A node has left: a request that waited for no other is through.
    pub(super) fn forget(&mut self, node: NodeId) {
        if self.leaving.remove(&node) && self.leaving.is_empty() {
            self.target = None;
        }
    }
}

/// Shard nodes, whether they stay or not.
fn shards(map: &PlacementMap) -> impl Iterator<Item = &Node> {
    map.nodes.iter().filter(|node| node.role == Role::Shard)
}

/// Shard nodes that stay.
pub fn staying(map: &PlacementMap) -> u32 {
    u32::try_from(map.nodes.iter().filter(|node| node.is_open()).count()).unwrap_or(u32::MAX)
}

/// Replicas of one partition, at most.
pub fn replication(map: &PlacementMap) -> u32 {
    let wanted = map.partitions().map(|(_, partition)| partition.wanted().len());
    u32::try_from(wanted.max().unwrap_or(0)).unwrap_or(u32::MAX)
}

/// Partitions of which the node holds a voting replica, or is to get or lose one.
pub fn voting(map: &PlacementMap, node: NodeId) -> usize {
    let is_held = |partition: &flotilla_proto::placement::Partition| {
        partition.replicas.contains(&node)
            || partition.change.is_some_and(|change| change.add == Some(node) || change.remove == Some(node))
    };
    map.partitions().filter(|(_, partition)| is_held(partition)).count()
}

/// Whether nothing would be lost with this node.
pub fn is_released(map: &PlacementMap, node: &Node) -> bool {
    node.state == NodeState::Draining && !map.meta.contains(&node.id) && voting(map, node.id) == 0
}

/// How many shard nodes there must be, counted by ordinals.
pub fn floor(map: &PlacementMap) -> u32 {
    highest(shards(map).filter(|node| !is_released(map, node)))
}

/// Whether the shard node of the highest ordinal may end for good.
pub fn is_scale_in_safe(map: &PlacementMap) -> bool {
    floor(map) < highest(shards(map))
}

/// One more than the highest ordinal; nodes without one count, too.
fn highest<'a>(nodes: impl Iterator<Item = &'a Node>) -> u32 {
    let (count, ordinal) = nodes.fold((0_u32, 0), |(count, highest), node| {
        (count + 1, node.ordinal.map_or(highest, |ordinal| highest.max(ordinal.saturating_add(1))))
    });
    count.max(ordinal)
}

impl Catalogue {
    /// Asks for so many shard nodes, or for as many as there are.
    pub(super) fn scale(&mut self, to: Option<u32>) -> Result<Outcome, Refused> {
        let leaving = match to {
            Some(to) => self.beyond(to)?,
            None => BTreeSet::new(),
        };
        let former = std::mem::take(&mut self.fleet);
        let back: Vec<NodeId> = former.leaving.difference(&leaving).copied().collect();
        for node in &back {
            if self.map.node(*node).is_some() {
                self.set_state(*node, NodeState::Active)?;
            }
        }
        self.call_off(&back)?;
        for node in &leaving {
            self.set_state(*node, NodeState::Draining)?;
        }
        self.fleet.target = to.filter(|_| !leaving.is_empty());
        self.fleet.leaving = leaving;
        Ok(Outcome::Epoch(self.map.epoch))
    }

    /// Lowers the target, if it is not low enough, so that this node leaves.
    pub(super) fn leave(&mut self, node: NodeId) -> Result<Outcome, Refused> {
        let known = self.map.node(node).ok_or(Refused::NoNode(node.0))?;
        let Some(ordinal) = known.ordinal.filter(|_| known.role == Role::Shard) else {
            let why = format!("node {node} is no shard node with an ordinal (--shard-id)");
            return Err(Refused::Invalid("scale.to".into(), why));
        };
        let target = self.fleet.target.map_or(ordinal, |target| target.min(ordinal));
        self.scale(Some(target))
    }

    /// Raises the target, if it is too low, so that this node stays.
    pub(super) fn stay(&mut self, node: NodeId) -> Result<Outcome, Refused> {
        let ordinal = self.map.node(node).ok_or(Refused::NoNode(node.0))?.ordinal;
        let (Some(ordinal), true) = (ordinal, self.fleet.leaving.contains(&node)) else {
            return Ok(Outcome::Epoch(self.map.epoch));
        };
        self.scale(Some(ordinal.saturating_add(1)))
    }

    /// The nodes that leave for so many. One that an operator drains already is left to that.
    fn beyond(&self, to: u32) -> Result<BTreeSet<NodeId>, Refused> {
        let wrong = |why: String| Refused::Invalid("scale.to".into(), why);
        let least = replication(&self.map).max(1);
        if to < least {
            return Err(wrong(format!(
                "a partition has {least} replicas, each on a node of its own: at least {least}, got {to}"
            )));
        }
        if let Some(node) = shards(&self.map).find(|node| node.ordinal.is_none()) {
            let why = format!("node {} has no ordinal (--shard-id): drain it by its number instead", node.id);
            return Err(wrong(why));
        }
        let is_ours = |node: &Node| node.is_open() || self.fleet.leaving.contains(&node.id);
        let beyond = |node: &&Node| node.ordinal.is_some_and(|ordinal| ordinal >= to) && is_ours(node);
        let leaving: BTreeSet<NodeId> = shards(&self.map).filter(beyond).map(|node| node.id).collect();
        let stay = shards(&self.map).filter(|node| is_ours(node) && !leaving.contains(&node.id)).count();
        if (stay as u64) < u64::from(least) {
            return Err(wrong(format!("{stay} nodes would stay, and a partition has {least} replicas")));
        }
        Ok(leaving)
    }

    /// Aborts what moves away from these nodes.
    fn call_off(&mut self, nodes: &[NodeId]) -> Result<(), Refused> {
        let goes = |kind: &Kind| matches!(kind, Kind::Replica { add: Some(_), remove: Some(node), .. } if nodes.contains(node));
        let open: Vec<u64> = self.moves.open().filter(|m| goes(&m.what.kind)).map(|m| m.id).collect();
        open.into_iter().try_for_each(|id| self.abort(id))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Epoch, PartitionId};
    use flotilla_proto::placement::{CollectionPlacement, Partition};
    use flotilla_proto::schema::CollectionSpec;
    use uuid::Uuid;

    use super::super::Change;
    use super::super::moves::{NewMove, State};
    use super::*;

    /// Nodes 1.. with ordinals 0.., and a partition for each list of holders.
    fn catalogue(nodes: u64, partitions: &[&[u64]]) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for n in 1..=nodes {
            let mut node = Node::new(NodeId(0), Uuid::from_u128(n.into()), "h:1");
            node.ordinal = Some(n as u32 - 1);
            catalogue.change(Change::Introduce(node)).unwrap();
        }
        let partition = |(n, held): (usize, &&[u64])| {
            Partition::new(PartitionId(n as u64 + 1), held.iter().map(|id| NodeId(*id)).collect())
        };
        catalogue.map.collections.push(CollectionPlacement {
            id: Uuid::nil(),
            spec: CollectionSpec::default(),
            epoch: Epoch(1),
            partitions: partitions.iter().enumerate().map(partition).collect(),
            slots: Vec::new(),
            slot_move: None,
            replaces: Default::default(),
            tenancy: None,
        });
        catalogue
    }

    fn states(catalogue: &Catalogue) -> Vec<bool> {
        catalogue.map.nodes.iter().map(Node::is_open).collect()
    }

    #[test]
    fn the_highest_ordinals_leave_and_the_floor_falls_when_they_hold_nothing() {
        let mut catalogue = catalogue(4, &[&[1, 2], &[3, 4]]);
        assert_eq!((floor(&catalogue.map), is_scale_in_safe(&catalogue.map)), (4, false));
        catalogue.change(Change::Scale(Some(3))).unwrap();
        assert_eq!(states(&catalogue), [true, true, true, false]);
        assert_eq!((catalogue.fleet.target, floor(&catalogue.map)), (Some(3), 4), "it holds a replica");
        catalogue.map.collections[0].partitions[1].replicas = vec![NodeId(3), NodeId(1)];
        assert_eq!((floor(&catalogue.map), is_scale_in_safe(&catalogue.map)), (3, true));
        catalogue.map.meta = vec![NodeId(4)];
        assert_eq!(floor(&catalogue.map), 4, "it votes in the meta group");
    }

    #[test]
    fn a_request_that_is_called_off_or_raised_takes_nodes_and_moves_back() {
        let mut catalogue = catalogue(5, &[&[1, 2], &[4, 5]]);
        catalogue.change(Change::SetState { node: NodeId(2), state: NodeState::Draining }).unwrap();
        catalogue.change(Change::Scale(Some(3))).unwrap();
        assert_eq!(states(&catalogue), [true, false, true, false, false]);
        let kind = Kind::Replica { partition: PartitionId(2), add: Some(NodeId(1)), remove: Some(NodeId(5)) };
        let what = NewMove { collection: Uuid::nil(), kind, bytes: 0, reason: "scale".into() };
        let epoch = catalogue.map.epoch;
        catalogue.change(Change::Queue { epoch, moves: vec![what] }).unwrap();
        catalogue.change(Change::StartMove { id: 1 }).unwrap();
        catalogue.change(Change::Scale(Some(4))).unwrap();
        assert_eq!(states(&catalogue), [true, false, true, true, false]);
        assert_eq!(catalogue.moves.get(1).map(|m| m.state), Some(State::Running));
        catalogue.change(Change::Scale(None)).unwrap();
        assert_eq!(states(&catalogue), [true, false, true, true, true], "what was drained by hand stays so");
        assert_eq!(catalogue.moves.get(1).map(|m| m.state), Some(State::Aborted));
        assert_eq!(catalogue.fleet, Fleet::default());
    }

    #[test]
    fn nodes_that_are_asked_one_by_one_leave_together_in_whatever_order() {
        let leaving = |order: &[u64]| {
            let mut catalogue = catalogue(4, &[&[1]]);
            order.iter().for_each(|node| drop(catalogue.change(Change::Leave(NodeId(*node))).unwrap()));
            catalogue
        };
        let mut asked = leaving(&[3, 4]);
        assert_eq!((asked.fleet.target, states(&asked)), (Some(2), vec![true, true, false, false]));
        assert_eq!(asked.fleet, leaving(&[4, 3]).fleet);
        asked.change(Change::Stay(NodeId(1))).unwrap();
        assert_eq!(asked.fleet.target, Some(2), "it stays anyway");
        asked.change(Change::Stay(NodeId(3))).unwrap();
        assert_eq!((asked.fleet.target, states(&asked)), (Some(3), vec![true, true, true, false]));
        asked.change(Change::Stay(NodeId(4))).unwrap();
        assert_eq!((asked.fleet.target, states(&asked)), (None, vec![true; 4]));
    }

    #[test]
    fn too_few_are_refused_by_name() {
        let mut two = catalogue(3, &[&[1, 2]]);
        let refused = |catalogue: &mut Catalogue, to| {
            format!("{:?}", catalogue.change(Change::Scale(Some(to))).unwrap_err())
        };
        assert!(refused(&mut two, 1).contains("at least 2, got 1"));
        assert!(refused(&mut catalogue(1, &[]), 0).contains("scale.to"));
        two.map.nodes[0].ordinal = None;
        assert!(refused(&mut two, 2).contains("node 1 has no ordinal"));
    }
}

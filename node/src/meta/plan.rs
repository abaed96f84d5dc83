//! What would have to be done for an operator's goal: pure, so that a plan can be shown before it is applied.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Node, Partition, PlacementMap, Role};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::ring;
use flotilla_proto::schema::Strategy;

use super::catalogue::moves::{Kind, NewMove};
use super::catalogue::spread::{self, Load};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// As even a spread as weights and zones allow.
    Rebalance,
    /// Nothing on this node.
    Drain(NodeId),
    /// This node's replicas made anew on another, or wherever there is room.
    Replace(NodeId, Option<NodeId>),
    /// One replica elsewhere.
    Move(PartitionId, NodeId, NodeId),
    /// This node's replica made anew where it is.
    Rebuild(PartitionId, NodeId),
}

/// What is known of the cluster besides the map.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Nodes heard of lately.
    pub alive: BTreeSet<NodeId>,
    /// Bytes of each partition.
    pub bytes: BTreeMap<PartitionId, u64>,
    /// Bytes that may still be written to each node's disk.
    pub free: BTreeMap<NodeId, u64>,
}

/// What to do, and what to know before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Planned {
    /// In this order.
    pub moves: Vec<NewMove>,
    /// What cannot be done, or is risky.
    pub warnings: Vec<String>,
}

/// Moves of one plan, at most.
const MOVES_MAX: usize = 5_000;

/// The plan for `goal`.
pub fn plan(map: &PlacementMap, goal: &Goal, facts: &Facts) -> Result<Planned, Refusal> {
    let mut planning = Planning { map, facts, loads: spread::loads(map), planned: Planned::default() };
    match *goal {
        Goal::Rebalance => planning.rebalance(),
        Goal::Drain(node) => {
            planning.known(node, "drain")?;
            planning.empty(node, None, "drain");
        }
        Goal::Replace(node, by) => {
            planning.known(node, "replace.node")?;
            if let Some(by) = by {
                let heir = planning.known(by, "replace.by")?;
                if !heir.is_open() || by == node {
                    return Err(Violation::new("replace.by", format!("node {by} takes no replicas")).into());
                }
            }
            planning.empty(node, by, "replace");
        }
        Goal::Move(partition, from, to) => planning.one(partition, from, to)?,
        Goal::Rebuild(partition, node) => planning.rebuild(partition, node)?,
    }
    planning.check_space();
    Ok(planning.planned)
}

struct Planning<'a> {
    map: &'a PlacementMap,
    facts: &'a Facts,
    loads: BTreeMap<NodeId, Load>,
    planned: Planned,
}

impl<'a> Planning<'a> {
    fn known(&self, node: NodeId, field: &str) -> Result<&'a Node, Refusal> {
        let unknown = || Violation::new(field, format!("there is no node {node}")).into();
        self.map.node(node).ok_or_else(unknown)
    }

    /// Nodes that may get replicas.
    fn open(&self) -> Vec<&'a Node> {
        self.map.nodes.iter().filter(|node| node.is_open() && self.facts.alive.contains(&node.id)).collect()
    }

    fn push(
        &mut self,
        collection: &CollectionPlacement,
        partition: &Partition,
        add: Option<NodeId>,
        remove: Option<NodeId>,
        reason: &str,
    ) {
        let bytes = if add.is_some() { self.facts.bytes.get(&partition.id).copied().unwrap_or(0) } else { 0 };
        if let Some(load) = remove.and_then(|node| self.loads.get_mut(&node)) {
            load.replicas -= 1.0;
        }
        if let Some(load) = add.and_then(|node| self.loads.get_mut(&node)) {
            load.replicas += 1.0;
        }
        let kind = Kind::Replica { partition: partition.id, add, remove };
        self.planned.moves.push(NewMove {
            collection: collection.id,
            kind,
            bytes,
            reason: reason.to_owned(),
        });
    }

    /// Moves everything away from `node`.
    fn empty(&mut self, node: NodeId, by: Option<NodeId>, reason: &str) {
        let open: Vec<&Node> = self.open().into_iter().filter(|open| open.id != node).collect();
        for (collection, partition) in self.map.partitions() {
            let held = partition.wanted();
            if !held.contains(&node) {
                continue;
            }
            let heir = by
                .filter(|by| !held.contains(by))
                .or_else(|| spread::successor(self.map, &open, &held, &self.loads));
            match heir {
                Some(heir) => self.push(collection, partition, Some(heir), Some(node), reason),
                None => self.planned.warnings.push(format!(
                    "no node can take the replica of partition {} of `{}` from node {node}",
                    partition.id, collection.spec.name
                )),
            }
            if held.len() == 2 && !self.facts.alive.contains(&node) {
                self.planned.warnings.push(format!(
                    "partition {} has two replicas and one is down: it cannot change until that one is back",
                    partition.id
                ));
            }
        }
    }

    /// One replica at a time from the fullest to the emptiest node, for their weights, while that evens things out.
    fn rebalance(&mut self) {
        let leaving: Vec<NodeId> =
            self.map.nodes.iter().filter(|node| !node.is_open()).map(|node| node.id).collect();
        for node in leaving {
            self.empty(node, None, "rebalance: the node is draining");
        }
        let mut held: BTreeMap<PartitionId, Vec<NodeId>> =
            self.map.partitions().map(|(_, p)| (p.id, p.wanted())).collect();
        while self.planned.moves.len() < MOVES_MAX && self.even_out(&mut held) {}
    }

    fn even_out(&mut self, held: &mut BTreeMap<PartitionId, Vec<NodeId>>) -> bool {
        let mut open = self.open();
        let fill = |node: &Node, extra: f64| {
            (self.loads.get(&node.id).map_or(0.0, |load| load.replicas) + extra) / node.weight
        };
        open.sort_by(|a, b| fill(a, 0.0).total_cmp(&fill(b, 0.0)).then(a.id.cmp(&b.id)));
        for full in open.iter().rev() {
            for empty in &open {
                if fill(empty, 1.0) > fill(full, -1.0) || empty.id == full.id {
                    break;
                }
                let moved = self.map.partitions().find(|(_, p)| {
                    p.change.is_none()
                        && held.get(&p.id).is_some_and(|held| {
                            held.contains(&full.id)
                                && !held.contains(&empty.id)
                                && self.keeps_zones(held, full, empty)
                        })
                });
                if let Some((collection, partition)) = moved {
                    if let Some(held) = held.get_mut(&partition.id)
                        && let Some(at) = held.iter().position(|node| *node == full.id)
                    {
                        held[at] = empty.id;
                    }
                    self.push(collection, partition, Some(empty.id), Some(full.id), "rebalance");
                    return true;
                }
            }
        }
        false
    }

    /// Whether a replica may move without two of its partition sharing a zone that did not before.
    fn keeps_zones(&self, held: &[NodeId], from: &Node, to: &Node) -> bool {
        if to.zone.is_empty() || to.zone == from.zone {
            return true;
        }
        let others = held.iter().filter(|node| **node != from.id).filter_map(|node| self.map.node(*node));
        others.into_iter().all(|node| node.zone != to.zone)
    }

    fn one(&mut self, id: PartitionId, from: NodeId, to: NodeId) -> Result<(), Refusal> {
        let wrong = |field: &str, why: String| Refusal::from(Violation::new(field, why));
        let (collection, partition) = self
            .map
            .partition(id)
            .ok_or_else(|| wrong("move_replica.partition", format!("there is no partition {id}")))?;
        let heir = self.known(to, "move_replica.to")?;
        if !partition.replicas.contains(&from) {
            return Err(wrong("move_replica.from", format!("node {from} has no replica of partition {id}")));
        }
        if partition.replicas.contains(&to) {
            return Err(wrong(
                "move_replica.to",
                format!("node {to} has a replica of partition {id} already"),
            ));
        }
        if !heir.is_open() {
            return Err(wrong("move_replica.to", format!("node {to} takes no replicas")));
        }
        self.push(collection, partition, Some(to), Some(from), "move");
        Ok(())
    }

    /// The replica goes and comes again, so that what it forgot is never asked for while it votes.
    fn rebuild(&mut self, id: PartitionId, node: NodeId) -> Result<(), Refusal> {
        let unknown = || Refusal::NotFound("partition", id.to_string());
        let (collection, partition) = self.map.partition(id).ok_or_else(unknown)?;
        let learns = self.map.node(node).is_some_and(|node| node.role == Role::Replica);
        let is_there = partition.replicas.contains(&node) || partition.learners.contains(&node);
        let lacks = partition.replicas.len() < collection.spec.replication_factor as usize;
        if !is_there && !learns && !lacks {
            return Err(Refusal::NotFound("replica", format!("of partition {id} on node {node}")));
        }
        if is_there {
            self.push(collection, partition, None, Some(node), "rebuild");
        }
        self.push(collection, partition, Some(node), None, "rebuild");
        Ok(())
    }

    /// Warns of disks that would not hold what comes.
    fn check_space(&mut self) {
        let mut coming: BTreeMap<NodeId, u64> = BTreeMap::new();
        for planned in &self.planned.moves {
            if let Kind::Replica { add: Some(node), .. } = planned.kind {
                *coming.entry(node).or_default() += planned.bytes;
            }
        }
        for (node, bytes) in coming {
            if let Some(free) = self.facts.free.get(&node).filter(|free| **free < bytes.saturating_mul(6) / 5)
            {
                self.planned
                    .warnings
                    .push(format!("node {node} would get {bytes} bytes and has {free} free"));
            }
        }
    }
}

/// Which slots should go from which ordinal to which, so that partitions own as the ring proposes for as many of them; with
/// range, whole ranges go from the fullest to the emptiest.
pub fn slot_moves(placement: &CollectionPlacement) -> Vec<(u16, u16, Vec<u16>)> {
    let wanted = match placement.spec.strategy {
        Strategy::ConsistentHash | Strategy::ShardKey { .. } => {
            let members: Vec<(u64, f64)> = (0..placement.partitions.len() as u64).map(|n| (n, 1.0)).collect();
            ring::propose(&members)
        }
        Strategy::Range { .. } => even_ranges(&placement.slots, placement.partitions.len()),
    };
    let mut moves: BTreeMap<(u16, u16), Vec<u16>> = BTreeMap::new();
    for (slot, (has, wants)) in placement.slots.iter().zip(&wanted).enumerate() {
        if has != wants
            && let Ok(slot) = u16::try_from(slot)
        {
            moves.entry((*has, *wants)).or_default().push(slot);
        }
    }
    moves.into_iter().map(|((from, to), slots)| (from, to, slots)).collect()
}

/// Ranges stay where they are, but that partitions with none take from those with most, from their end.
fn even_ranges(slots: &[u16], partitions: usize) -> Vec<u16> {
    let mut owners = slots.to_vec();
    loop {
        let count = |ordinal: usize| owners.iter().filter(|owner| usize::from(**owner) == ordinal).count();
        let fullest = (0..partitions).max_by_key(|ordinal| (count(*ordinal), std::cmp::Reverse(*ordinal)));
        let emptiest = (0..partitions).min_by_key(|ordinal| (count(*ordinal), *ordinal));
        let (Some(full), Some(empty)) = (fullest, emptiest) else { return owners };
        if count(full) < count(empty) + 2 {
            return owners;
        }
        let last = owners.iter().rposition(|owner| usize::from(*owner) == full);
        match (last, u16::try_from(empty)) {
            (Some(last), Ok(empty)) => owners[last] = empty,
            _ => return owners,
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Epoch;
    use flotilla_proto::schema::CollectionSpec;

    use super::*;

    fn map(nodes: u64, partitions: &[&[u64]]) -> PlacementMap {
        let nodes: Vec<Node> =
            (1..=nodes).map(|id| Node::new(NodeId(id), uuid::Uuid::from_u128(id.into()), "h:1")).collect();
        let partition = |(n, held): (usize, &&[u64])| {
            Partition::new(PartitionId(n as u64 + 1), held.iter().map(|id| NodeId(*id)).collect())
        };
        let collection = CollectionPlacement {
            id: uuid::Uuid::nil(),
            spec: CollectionSpec::default(),
            epoch: Epoch(1),
            partitions: partitions.iter().enumerate().map(partition).collect(),
            slots: Vec::new(),
            slot_move: None,
            replaces: Default::default(),
            tenancy: None,
        };
        PlacementMap { nodes, collections: vec![collection], ..Default::default() }
    }

    fn facts(map: &PlacementMap) -> Facts {
        Facts { alive: map.nodes.iter().map(|node| node.id).collect(), ..Facts::default() }
    }

    #[test]
    fn a_new_node_gets_its_share_and_a_balanced_cluster_is_left_alone() {
        let before = map(4, &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 2, 3]]);
        let planned = plan(&before, &Goal::Rebalance, &facts(&before)).unwrap();
        assert_eq!(planned.moves.len(), 3, "{planned:?}");
        assert!(planned.moves.iter().all(|m| matches!(m.kind, Kind::Replica { add: Some(NodeId(4)), .. })));
        let balanced = map(3, &[&[1, 2, 3], &[2, 3, 1]]);
        assert_eq!(plan(&balanced, &Goal::Rebalance, &facts(&balanced)), Ok(Planned::default()));
    }

    #[test]
    fn a_drain_empties_the_node_or_says_what_stays() {
        let before = map(4, &[&[1, 2, 3], &[4, 1, 2]]);
        let planned = plan(&before, &Goal::Drain(NodeId(1)), &facts(&before)).unwrap();
        let kinds: Vec<&Kind> = planned.moves.iter().map(|m| &m.kind).collect();
        let moved = |partition, add| Kind::Replica {
            partition: PartitionId(partition),
            add: Some(NodeId(add)),
            remove: Some(NodeId(1)),
        };
        assert_eq!(kinds, [&moved(1, 4), &moved(2, 3)]);
        let small = map(3, &[&[1, 2, 3]]);
        let planned = plan(&small, &Goal::Drain(NodeId(1)), &facts(&small)).unwrap();
        assert!(planned.moves.is_empty() && planned.warnings[0].contains("no node can take"));
    }

    #[test]
    fn wrong_goals_name_their_field() {
        let map = map(2, &[&[1]]);
        let facts = facts(&map);
        let refused = |goal| plan(&map, &goal, &facts).unwrap_err().to_string();
        assert!(refused(Goal::Drain(NodeId(9))).contains("drain: there is no node 9"));
        assert!(refused(Goal::Move(PartitionId(1), NodeId(2), NodeId(1))).contains("move_replica.from"));
        assert!(refused(Goal::Move(PartitionId(7), NodeId(1), NodeId(2))).contains("move_replica.partition"));
    }

    #[test]
    fn a_full_disk_is_told_before() {
        let map = map(2, &[&[1]]);
        let mut facts = facts(&map);
        facts.bytes.insert(PartitionId(1), 1_000);
        facts.free.insert(NodeId(2), 1_100);
        let planned = plan(&map, &Goal::Drain(NodeId(1)), &facts).unwrap();
        assert!(planned.warnings[0].contains("1000 bytes and has 1100 free"), "{planned:?}");
    }
}

//! The placement map.

use super::collection::{collection_from_wire, collection_to_wire};
use super::tenant::{tenancy_from_wire, tenancy_to_wire};
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::placement::{
    Change, CollectionPlacement, Node, NodeState, Partition, PlacementMap, Replaces, Role, SlotMove,
};
use crate::refusal::Violation;
use crate::v1;

/// A collection's placement for the wire.
pub fn placement_to_wire(placement: &CollectionPlacement) -> v1::CollectionPlacement {
    let whole = |node: Option<NodeId>| node.map_or(0, |node| node.0);
    let change = |c: Change| v1::PartitionChange { r#move: c.id, add: whole(c.add), remove: whole(c.remove) };
    let partition = |p: &Partition| v1::Partition {
        id: p.id.0,
        replicas: p.replicas.iter().map(|node| node.0).collect(),
        learners: p.learners.iter().map(|node| node.0).collect(),
        change: p.change.map(change),
    };
    let slot_move = |m: &SlotMove| v1::SlotMove {
        r#move: m.id,
        from: m.from.0,
        to: m.to.0,
        slots: m.slots.iter().map(|slot| u32::from(*slot)).collect(),
    };
    v1::CollectionPlacement {
        collection: Some(collection_to_wire(placement)),
        partitions: placement.partitions.iter().map(partition).collect(),
        slots: placement.slots.iter().map(|owner| u32::from(*owner)).collect(),
        slot_move: placement.slot_move.as_ref().map(slot_move),
        tenancy: placement.tenancy.as_ref().map(tenancy_to_wire),
    }
}

/// A collection's placement; one whose slots name no partition is refused.
pub fn placement_from_wire(placement: v1::CollectionPlacement) -> Result<CollectionPlacement, Violation> {
    let collection =
        placement.collection.ok_or_else(|| Violation::new("placement.collection", "is missing"))?;
    let (spec, id, epoch) = collection_from_wire(collection)?;
    let partitions: Vec<Partition> = placement
        .partitions
        .into_iter()
        .map(|p| Partition {
            id: PartitionId(p.id),
            replicas: p.replicas.into_iter().map(NodeId).collect(),
            learners: p.learners.into_iter().map(NodeId).collect(),
            change: p.change.map(|c| Change { id: c.r#move, add: node_id(c.add), remove: node_id(c.remove) }),
        })
        .collect();
    let wanted = spec.strategy.slots();
    if placement.slots.len() != wanted {
        let why = format!("expected {wanted} slots, got {}", placement.slots.len());
        return Err(Violation::new("placement.slots", why));
    }
    let owner = |ordinal: u32| {
        u16::try_from(ordinal).ok().filter(|o| usize::from(*o) < partitions.len()).ok_or_else(|| {
            Violation::range("placement.slots", 0, partitions.len().saturating_sub(1), ordinal)
        })
    };
    let slots = placement.slots.into_iter().map(owner).collect::<Result<_, _>>()?;
    let slot = |slot: u32| {
        let slot = u16::try_from(slot).ok().filter(|slot| usize::from(*slot) < wanted);
        slot.ok_or_else(|| Violation::new("placement.slot_move", "names a slot that is none"))
    };
    let slot_move = placement.slot_move.map(|m| {
        Ok::<_, Violation>(SlotMove {
            id: m.r#move,
            from: PartitionId(m.from),
            to: PartitionId(m.to),
            slots: m.slots.into_iter().map(slot).collect::<Result<_, _>>()?,
        })
    });
    let slot_move = slot_move.transpose()?;
    let tenancy = placement.tenancy.map(tenancy_from_wire).transpose()?;
    let replaces = Replaces::default();
    Ok(CollectionPlacement { id, spec, epoch, partitions, slots, slot_move, replaces, tenancy })
}

fn node_id(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

/// A node for the wire.
pub fn node_to_wire(n: &Node) -> v1::Node {
    v1::Node {
        id: n.id.0,
        uuid: n.uuid.to_string(),
        address: n.address.clone(),
        weight: n.weight,
        peer_address: n.peer_address.clone(),
        zone: n.zone.clone(),
        role: match n.role {
            Role::Shard => v1::NodeRole::Shard.into(),
            Role::Replica => v1::NodeRole::Replica.into(),
        },
        state: match n.state {
            NodeState::Active => v1::NodeState::Active.into(),
            NodeState::Draining => v1::NodeState::Draining.into(),
        },
        ordinal: n.ordinal,
    }
}

/// A node.
pub fn node_from_wire(n: v1::Node) -> Result<Node, Violation> {
    let uuid =
        n.uuid.parse().map_err(|_| Violation::new("node.uuid", format!("`{}` is not a uuid", n.uuid)))?;
    if !(n.weight.is_finite() && n.weight > 0.0 && n.weight <= 1e6) {
        return Err(Violation::new(
            "node.weight",
            format!("must be above 0 and at most 1e6, got {}", n.weight),
        ));
    }
    Ok(Node {
        id: NodeId(n.id),
        uuid,
        weight: n.weight,
        role: if n.role() == v1::NodeRole::Replica { Role::Replica } else { Role::Shard },
        state: if n.state() == v1::NodeState::Draining { NodeState::Draining } else { NodeState::Active },
        address: n.address,
        peer_address: n.peer_address,
        zone: n.zone,
        ordinal: n.ordinal,
    })
}

/// The map for the wire.
pub fn map_to_wire(map: &PlacementMap) -> v1::PlacementMap {
    v1::PlacementMap {
        epoch: map.epoch.0,
        nodes: map.nodes.iter().map(node_to_wire).collect(),
        collections: map.collections.iter().map(placement_to_wire).collect(),
        meta: map.meta.iter().map(|node| node.0).collect(),
    }
}

/// The map.
pub fn map_from_wire(map: v1::PlacementMap) -> Result<PlacementMap, Violation> {
    Ok(PlacementMap {
        epoch: Epoch(map.epoch),
        nodes: map.nodes.into_iter().map(node_from_wire).collect::<Result<_, Violation>>()?,
        collections: map.collections.into_iter().map(placement_from_wire).collect::<Result<_, _>>()?,
        meta: map.meta.into_iter().map(NodeId).collect(),
    })
}

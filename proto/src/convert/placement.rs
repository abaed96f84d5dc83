//! The placement map.

use super::collection::{collection_from_wire, collection_to_wire};
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::limits::SLOTS;
use crate::placement::{CollectionPlacement, Node, Partition, PlacementMap};
use crate::refusal::Violation;
use crate::v1;

/// A collection's placement for the wire.
pub fn placement_to_wire(placement: &CollectionPlacement) -> v1::CollectionPlacement {
    let partition = |p: &Partition| v1::Partition {
        id: p.id.0,
        replicas: p.replicas.iter().map(|node| node.0).collect(),
    };
    v1::CollectionPlacement {
        collection: Some(collection_to_wire(placement)),
        partitions: placement.partitions.iter().map(partition).collect(),
        slots: placement.slots.iter().map(|owner| u32::from(*owner)).collect(),
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
        .map(|p| Partition { id: PartitionId(p.id), replicas: p.replicas.into_iter().map(NodeId).collect() })
        .collect();
    if placement.slots.len() != SLOTS {
        return Err(Violation::new(
            "placement.slots",
            format!("expected {SLOTS} slots, got {}", placement.slots.len()),
        ));
    }
    let owner = |ordinal: u32| {
        u16::try_from(ordinal).ok().filter(|o| usize::from(*o) < partitions.len()).ok_or_else(|| {
            Violation::range("placement.slots", 0, partitions.len().saturating_sub(1), ordinal)
        })
    };
    let slots = placement.slots.into_iter().map(owner).collect::<Result<_, _>>()?;
    Ok(CollectionPlacement { id, spec, epoch, partitions, slots })
}

/// The map for the wire.
pub fn map_to_wire(map: &PlacementMap) -> v1::PlacementMap {
    let node = |n: &Node| v1::Node {
        id: n.id.0,
        uuid: n.uuid.to_string(),
        address: n.address.clone(),
        weight: n.weight,
    };
    v1::PlacementMap {
        epoch: map.epoch.0,
        nodes: map.nodes.iter().map(node).collect(),
        collections: map.collections.iter().map(placement_to_wire).collect(),
    }
}

/// The map.
pub fn map_from_wire(map: v1::PlacementMap) -> Result<PlacementMap, Violation> {
    let node = |n: v1::Node| {
        let uuid =
            n.uuid.parse().map_err(|_| Violation::new("node.uuid", format!("`{}` is not a uuid", n.uuid)))?;
        Ok(Node { id: NodeId(n.id), uuid, address: n.address, weight: n.weight })
    };
    Ok(PlacementMap {
        epoch: Epoch(map.epoch),
        nodes: map.nodes.into_iter().map(node).collect::<Result<_, Violation>>()?,
        collections: map.collections.into_iter().map(placement_from_wire).collect::<Result<_, _>>()?,
    })
}

//! The placement map: which collections exist, which partitions they have, where the replicas are, and at which epoch that
//! holds. Owned by the meta Raft group; routers and clients watch it. A request fixes one map and so sees each slot once.

use serde::{Deserialize, Serialize};

use crate::ids::{CollectionId, Epoch, NodeId, PartitionId};
use crate::record::Key;
use crate::ring;
use crate::schema::CollectionSpec;

/// A shard node as others reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The identity kept in its data folder.
    pub uuid: uuid::Uuid,
    /// Where it serves, as `host:port`; or `inproc` for the node inside the same process.
    pub address: String,
    /// Its share of the partitions.
    pub weight: f64,
}

/// A partition and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The partition, and its Raft group.
    pub id: PartitionId,
    /// The nodes that hold replicas; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
}

/// A collection and where its slots are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionPlacement {
    /// Its incarnation.
    pub id: CollectionId,
    /// What it is.
    pub spec: CollectionSpec,
    /// The epoch at which this placement or its spec last changed.
    pub epoch: Epoch,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// Slot -> ordinal in `partitions`; [`crate::limits::SLOTS`] entries.
    pub slots: Vec<u16>,
}

impl CollectionPlacement {
    /// The partition that owns `key`. `None` only if the map is damaged.
    pub fn partition_of(&self, key: &Key) -> Option<&Partition> {
        self.partitions.get(usize::from(*self.slots.get(ring::slot(key))?))
    }
}

/// The whole map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacementMap {
    /// Its version.
    pub epoch: Epoch,
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// The collections, by name.
    pub collections: Vec<CollectionPlacement>,
}

impl PlacementMap {
    /// The collection of this name.
    pub fn collection(&self, name: &str) -> Option<&CollectionPlacement> {
        self.collections.iter().find(|c| c.spec.name == name)
    }

    /// The collection of this incarnation.
    pub fn collection_by_id(&self, id: CollectionId) -> Option<&CollectionPlacement> {
        self.collections.iter().find(|c| c.id == id)
    }

    /// The node of this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }
}

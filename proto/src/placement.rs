//! The placement map: which collections exist, which partitions they have, where the replicas are, and at which epoch that
//! holds. Owned by the meta Raft group; routers and clients watch it. A request fixes one map and so sees each slot once.

use serde::{Deserialize, Serialize};

use crate::area::Area;
use crate::ids::{CollectionId, Epoch, NodeId, PartitionId};
use crate::record::Key;
use crate::schema::CollectionSpec;
use crate::tenant::Tenancy;

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The identity kept in its data folder.
    pub uuid: uuid::Uuid,
    /// Where it serves, as `host:port`; or `inproc` for the node inside the same process.
    pub address: String,
    /// Its share of the replicas.
    pub weight: f64,
    /// Where other nodes reach it, as `host:port`; empty if it is alone.
    pub peer_address: String,
    /// Replicas of a partition are spread over zones; may be empty.
    pub zone: String,
    /// What it may hold.
    pub role: Role,
    /// Whether it may get more.
    pub state: NodeState,
    /// Its number in a set of like nodes, if it has one.
    pub ordinal: Option<u32>,
}

/// What a node may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Voting replicas.
    #[default]
    Shard,
    /// Learners only.
    Replica,
}

/// Whether a node may get more replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// It may.
    #[default]
    Active,
    /// It may not, and its own move away.
    Draining,
}

impl Node {
    /// A shard node as a member of no particular zone.
    pub fn new(id: NodeId, uuid: uuid::Uuid, address: impl Into<String>) -> Node {
        Node {
            id,
            uuid,
            address: address.into(),
            weight: 1.0,
            peer_address: String::new(),
            zone: String::new(),
            role: Role::Shard,
            state: NodeState::Active,
            ordinal: None,
        }
    }

    /// Whether it may get voting replicas.
    pub fn is_open(&self) -> bool {
        self.role == Role::Shard && self.state == NodeState::Active
    }
}

/// A partition and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The partition, and its Raft group.
    pub id: PartitionId,
    /// The nodes that hold voting replicas; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// The nodes that hold learners: they serve reads and have no vote.
    pub learners: Vec<NodeId>,
    /// A change of the voting replicas that is under way.
    pub change: Option<Change>,
}

/// One replica comes, one goes, or both. With one node as both, its replica is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The move that it belongs to.
    pub id: u64,
    /// The node that gets a replica.
    pub add: Option<NodeId>,
    /// The node whose replica goes.
    pub remove: Option<NodeId>,
}

impl Partition {
    /// A partition whose replicas are at rest.
    pub fn new(id: PartitionId, replicas: Vec<NodeId>) -> Partition {
        Partition { id, replicas, learners: Vec::new(), change: None }
    }

    /// The nodes that hold a replica of any kind now, also one that only comes or goes.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> {
        let comes = self.change.and_then(|change| change.add).filter(|node| !self.replicas.contains(node));
        self.replicas.iter().chain(&self.learners).copied().chain(comes)
    }

    /// The voting replicas once the change is through.
    pub fn wanted(&self) -> Vec<NodeId> {
        let Some(change) = self.change else { return self.replicas.clone() };
        let mut wanted = self.replicas.clone();
        match (change.remove.and_then(|gone| wanted.iter().position(|node| *node == gone)), change.add) {
            (Some(at), Some(add)) => wanted[at] = add,
            (Some(at), None) => drop(wanted.remove(at)),
            (None, Some(add)) if !wanted.contains(&add) => wanted.push(add),
            (None, _) => {}
        }
        wanted
    }
}

/// Slots on their way from one partition of a collection to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMove {
    /// The move.
    pub id: u64,
    /// The partition that gives them up.
    pub from: PartitionId,
    /// The partition that gets them.
    pub to: PartitionId,
    /// Which, ascending.
    pub slots: Vec<u16>,
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
    /// Slot -> ordinal in `partitions`; as many as its strategy has slots.
    pub slots: Vec<u16>,
    /// Slots under way, at most one move of a collection at a time.
    pub slot_move: Option<SlotMove>,
    /// Sets of records that replace others; known to nodes alone, and stored behind the catalogue.
    #[serde(skip)]
    pub replaces: Replaces,
    /// Whose it is, if it is a tenant's; stored behind the catalogue, too.
    #[serde(skip)]
    pub tenancy: Option<Tenancy>,
}

/// Who asked to replace a generation, and how many-th request of theirs it was.
pub type ReplaceId = (u64, u64);

/// The replacements of a collection: which were committed last, and which may yet be.
///
/// A partition holds back what comes for one that is open, gives up one that is neither, and takes up the committed ones in
/// their order. A replacement that the layout of the collection did not survive is closed by whoever changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaces {
    /// How many were committed.
    pub generation: u64,
    /// The last of them, oldest first, with the generation that each began.
    pub committed: Vec<(u64, ReplaceId)>,
    /// Those that may be committed, with the time, in milliseconds since 1970, when each was opened.
    pub open: Vec<(ReplaceId, u64)>,
}

impl Replaces {
    /// The generation that it began, if it was committed lately.
    pub fn begun_by(&self, id: ReplaceId) -> Option<u64> {
        self.committed.iter().find(|(_, known)| *known == id).map(|(generation, _)| *generation)
    }

    /// Whether it may be committed.
    pub fn is_open(&self, id: ReplaceId) -> bool {
        self.open.iter().any(|(open, _)| *open == id)
    }
}

impl CollectionPlacement {
    /// The partition that owns `key`. `None` only if the map is damaged.
    pub fn partition_of(&self, key: &Key) -> Option<&Partition> {
        self.partitions.get(usize::from(*self.slots.get(self.spec.strategy.slot(key))?))
    }

    /// Whether the partition of this ordinal may own text keys that begin with `prefix`.
    pub fn may_own_prefix(&self, ordinal: usize, prefix: &str) -> bool {
        let slots = self.slots.get(self.spec.strategy.slots_of_prefix(prefix)).unwrap_or(&self.slots);
        slots.iter().any(|owner| usize::from(*owner) == ordinal)
    }

    /// The partition of this id.
    pub fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// The keys that the partition owns; none if there is no such partition.
    pub fn area(&self, id: PartitionId) -> Area {
        let ordinal = self.partitions.iter().position(|partition| partition.id == id);
        let owned = self.slots.iter().enumerate();
        let owned = owned.filter(|(_, owner)| Some(usize::from(**owner)) == ordinal).map(|(slot, _)| slot);
        Area::of(&self.spec.strategy, owned)
    }

    /// The keys that are under way.
    pub fn moving(&self) -> Area {
        let slots = self.slot_move.iter().flat_map(|m| &m.slots).map(|slot| usize::from(*slot));
        Area::of(&self.spec.strategy, slots)
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
    /// The nodes that vote in the meta group.
    pub meta: Vec<NodeId>,
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

    /// The partition of this id, and its collection.
    pub fn partition(&self, id: PartitionId) -> Option<(&CollectionPlacement, &Partition)> {
        self.collections.iter().find_map(|c| Some((c, c.partition(id)?)))
    }

    /// Every partition with its collection.
    pub fn partitions(&self) -> impl Iterator<Item = (&CollectionPlacement, &Partition)> {
        self.collections.iter().flat_map(|c| c.partitions.iter().map(move |p| (c, p)))
    }
}

//! Identities as types, so that a partition's id cannot be passed where a node's is meant.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A shard node. Never reused.
    NodeId
);
id!(
    /// A partition, and the Raft group that carries it. Unique in the cluster, never reused. 0 is the meta group.
    PartitionId
);
id!(
    /// The version of the placement map; grows by one with each change of it.
    Epoch
);

/// The Raft group of the placement map.
pub const META_GROUP: PartitionId = PartitionId(0);

/// A collection's incarnation: a new one for each create, so that a collection made anew under an old name never
/// reads what its namesake left.
pub type CollectionId = uuid::Uuid;

/// A position in a partition's Raft log. The first entry has index 1.
pub type LogIndex = u64;

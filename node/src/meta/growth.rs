//! When a collection outgrows its partitions: decided from stored bytes, by the leader of the meta group.
//!
//! A node that is alone begins each collection with a few partitions and spreads it over more once it is large; beyond a
//! further size it advises a cluster, where the operator decides. Pure: figures in, advice out.

use std::collections::BTreeMap;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::placement::PlacementMap;

/// When to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Stored bytes of a collection from which on it is spread over [`Thresholds::partitions`]; 0: never.
    pub grow_bytes: u64,
    /// Stored bytes of all collections from which on a cluster is advised; 0: never.
    pub advise_bytes: u64,
    /// Partitions of a collection that has grown.
    pub partitions: u32,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { grow_bytes: 10 << 30, advise_bytes: 100 << 30, partitions: 10 }
    }
}

/// What is advised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Collections to spread over so many partitions.
    pub grow: Vec<(String, u32)>,
    /// The stored bytes, if they are enough for a cluster.
    pub cluster: Option<u64>,
}

/// What a node that is alone should do; in a cluster, nothing by itself. A collection that is growing is left to it, and
/// so is one by ranges, whose owner chose its partitions.
pub fn advise(map: &PlacementMap, bytes: &BTreeMap<PartitionId, u64>, at: &Thresholds) -> Advice {
    if map.nodes.len() != 1 {
        return Advice::default();
    }
    let mut advice = Advice::default();
    let mut total = 0_u64;
    for collection in &map.collections {
        let stored: u64 = collection.partitions.iter().filter_map(|p| bytes.get(&p.id)).sum();
        total = total.saturating_add(stored);
        let is_small = (collection.partitions.len() as u64) < u64::from(at.partitions);
        let is_free = collection.slot_move.is_none() && collection.spec.strategy.is_hashed();
        if at.grow_bytes > 0 && stored >= at.grow_bytes && is_small && is_free {
            advice.grow.push((collection.spec.name.clone(), at.partitions));
        }
    }
    advice.cluster = (at.advise_bytes > 0 && total >= at.advise_bytes).then_some(total);
    advice
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Epoch, NodeId};
    use flotilla_proto::placement::{CollectionPlacement, Node, Partition};
    use flotilla_proto::schema::{CollectionSpec, Strategy};

    use super::*;

    fn map(nodes: u64, partitions: u64) -> PlacementMap {
        let collection = CollectionPlacement {
            id: uuid::Uuid::nil(),
            spec: CollectionSpec { name: "c".into(), ..Default::default() },
            epoch: Epoch(1),
            partitions: (1..=partitions).map(|id| Partition::new(PartitionId(id), vec![NodeId(1)])).collect(),
            slots: Vec::new(),
            slot_move: None,
            replaces: Default::default(),
            tenancy: None,
        };
        let node = |id| Node::new(NodeId(id), uuid::Uuid::from_u128(id.into()), "inproc");
        let nodes = (1..=nodes).map(node).collect();
        PlacementMap { nodes, collections: vec![collection], ..Default::default() }
    }

    #[test]
    fn a_large_collection_grows_once_and_a_cluster_is_advised_later() {
        let at = Thresholds { grow_bytes: 100, advise_bytes: 1_000, partitions: 10 };
        let bytes = |each| (1..=10).map(|id| (PartitionId(id), each)).collect::<BTreeMap<_, u64>>();
        assert_eq!(advise(&map(1, 4), &bytes(24), &at), Advice::default());
        assert_eq!(advise(&map(1, 4), &bytes(25), &at).grow, [("c".to_owned(), 10)]);
        let large = advise(&map(1, 10), &bytes(100), &at);
        assert_eq!((large.grow.len(), large.cluster), (0, Some(1_000)));
        assert_eq!(
            advise(&map(3, 4), &bytes(1_000), &at),
            Advice::default(),
            "in a cluster, operators decide"
        );
        let mut by_shard_key = map(1, 4);
        by_shard_key.collections[0].spec.strategy = Strategy::ShardKey { delimiter: b'/' };
        assert_eq!(advise(&by_shard_key, &bytes(25), &at).grow, [("c".to_owned(), 10)]);
        let mut by_ranges = map(1, 4);
        by_ranges.collections[0].spec.strategy = Strategy::Range { splits: Vec::new() };
        assert_eq!(advise(&by_ranges, &bytes(25), &at).grow, []);
        let never = Thresholds { grow_bytes: 0, advise_bytes: 0, ..at };
        assert_eq!(advise(&map(1, 1), &bytes(u64::MAX), &never), Advice::default());
    }
}

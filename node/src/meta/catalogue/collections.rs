//! What there is: collections, their partitions, and who owns which slots.

use std::collections::BTreeMap;

use flotilla_proto::ids::{CollectionId, NodeId, PartitionId};
use flotilla_proto::limits::{COLLECTIONS_MAX, PARTITIONS_MAX, SLOTS};
use flotilla_proto::placement::{CollectionPlacement, Partition, Role};
use flotilla_proto::record::Key;
use flotilla_proto::ring;
use flotilla_proto::schema::{CollectionSpec, FieldType, Strategy};

use super::{Catalogue, Outcome, Owner, Refused, spread};

impl Catalogue {
    pub(super) fn create(
        &mut self,
        id: CollectionId,
        mut spec: CollectionSpec,
        alive: &[NodeId],
        owner: Option<Owner>,
    ) -> Result<Outcome, Refused> {
        if self.map.collection(&spec.name).is_some() {
            return Err(Refused::Exists(spec.name));
        }
        if self.map.collections.len() >= COLLECTIONS_MAX {
            return Err(Refused::Full(format!("{COLLECTIONS_MAX} collections exist, and that is the limit")));
        }
        spec.check()?;
        let tenancy = self.tenancy(&spec.name, owner)?;
        spec.replication_factor = spec.replication_factor.max(1);
        let partitions = self.new_partitions(spec.partitions, spec.replication_factor, alive)?;
        let slots = slots(&spec);
        let epoch = self.next_epoch();
        let (slot_move, replaces) = (None, Default::default());
        let placement =
            CollectionPlacement { id, spec, epoch, partitions, slots, slot_move, replaces, tenancy };
        self.map.collections.push(placement.clone());
        self.map.collections.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(Outcome::Placement(placement))
    }

    /// Partitions with their replicas, as many as asked.
    fn new_partitions(
        &mut self,
        count: u32,
        replicas: u32,
        alive: &[NodeId],
    ) -> Result<Vec<Partition>, Refused> {
        let nodes: Vec<_> =
            self.map.nodes.iter().filter(|node| node.is_open() && alive.contains(&node.id)).collect();
        if nodes.len() < replicas as usize {
            let why =
                format!("{replicas} replicas need as many shard nodes; {} are up and open", nodes.len());
            return Err(Refused::Invalid("spec.replication_factor".into(), why));
        }
        let chosen = spread::place(&self.map, &nodes, count as usize, replicas as usize);
        let learners: Vec<NodeId> =
            self.map.nodes.iter().filter(|node| node.role == Role::Replica).map(|node| node.id).collect();
        let first = self.next_partition;
        self.next_partition += u64::from(count);
        let partition = |(n, replicas)| Partition {
            learners: learners.clone(),
            ..Partition::new(PartitionId(first + n), replicas)
        };
        Ok((0..).zip(chosen).map(partition).collect())
    }

    pub(super) fn update(
        &mut self,
        name: &str,
        add_fields: BTreeMap<String, FieldType>,
        ef_search: BTreeMap<String, u32>,
    ) -> Result<Outcome, Refused> {
        let at = self.position(name)?;
        let mut spec = self.map.collections[at].spec.clone();
        for (path, kind) in add_fields {
            match spec.fields.insert(path.clone(), kind) {
                Some(declared) if declared != kind => {
                    let why = format!("is declared as {} and cannot become {}", declared.name(), kind.name());
                    return Err(Refused::Invalid(format!("add_fields[{path}]"), why));
                }
                _ => {}
            }
        }
        for (vector, ef) in ef_search {
            match spec.vectors.get_mut(&vector).and_then(|v| v.index.hnsw_mut()) {
                Some(hnsw) => hnsw.ef_search = ef,
                None => {
                    let why = format!("collection `{name}` has no hnsw vector of this name");
                    return Err(Refused::Invalid(format!("ef_search[{vector}]"), why));
                }
            }
        }
        spec.check()?;
        let epoch = self.next_epoch();
        let placement = &mut self.map.collections[at];
        placement.spec = spec;
        placement.epoch = epoch;
        // What was held back fitted the collection as it was.
        placement.replaces.open.clear();
        Ok(Outcome::Placement(placement.clone()))
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<Outcome, Refused> {
        let at = self.position(name)?;
        let gone = self.map.collections.remove(at);
        self.moves.forget(gone.id);
        Ok(Outcome::Epoch(self.next_epoch()))
    }

    /// More partitions, which own nothing yet; with range, ranges are split first, both halves where the whole was.
    pub(super) fn grow(
        &mut self,
        name: &str,
        partitions: u32,
        alive: &[NodeId],
        splits: Vec<Key>,
    ) -> Result<Outcome, Refused> {
        let at = self.position(name)?;
        let has = self.map.collections[at].partitions.len() as u32;
        if partitions < has || partitions > PARTITIONS_MAX {
            let why = format!("must be {has} to {PARTITIONS_MAX}, got {partitions}");
            return Err(Refused::Invalid("partitions".into(), why));
        }
        let id = self.map.collections[at].id;
        let is_of_slots = |m: &super::moves::Move| {
            m.what.collection == id && matches!(m.what.kind, super::moves::Kind::Slots { .. })
        };
        if !splits.is_empty() && self.moves.open().any(is_of_slots) {
            // A move names ranges by their numbers, which a split changes.
            return Err(Refused::Stale(
                "ranges are on their way already: grow again when they have arrived".into(),
            ));
        }
        let replicas = self.map.collections[at].spec.replication_factor.max(1);
        let mut spec = self.map.collections[at].spec.clone();
        let mut slots = self.map.collections[at].slots.clone();
        split(&mut spec, &mut slots, splits);
        spec.partitions = partitions;
        spec.check()?;
        let more = self.new_partitions(partitions - has, replicas, alive)?;
        let epoch = self.next_epoch();
        let placement = &mut self.map.collections[at];
        placement.partitions.extend(more);
        placement.replaces.open.clear();
        (placement.spec, placement.slots, placement.epoch) = (spec, slots, epoch);
        Ok(Outcome::Placement(placement.clone()))
    }
}

/// Adds split points; each new range belongs to whom the old one did.
fn split(spec: &mut CollectionSpec, slots: &mut Vec<u16>, keys: Vec<Key>) {
    let Strategy::Range { splits } = &mut spec.strategy else { return };
    for key in keys {
        let at = splits.partition_point(|split| *split < key);
        if splits.get(at) != Some(&key)
            && let Some(owner) = slots.get(at).copied()
        {
            splits.insert(at, key);
            slots.insert(at + 1, owner);
        }
    }
}

/// Who owns which slot at first. Ordinals, not ids, stand on the ring: every collection of as many partitions has the same
/// slots. With range, neighbouring ranges go to one partition, as evenly as they divide.
fn slots(spec: &CollectionSpec) -> Vec<u16> {
    match &spec.strategy {
        Strategy::ConsistentHash | Strategy::ShardKey { .. } => proposed(spec.partitions),
        Strategy::Range { splits } => {
            let (ranges, partitions) = (splits.len() + 1, spec.partitions as usize);
            (0..ranges).map(|n| u16::try_from(n * partitions / ranges).unwrap_or(u16::MAX)).collect()
        }
    }
}

/// The slots of as many equal partitions.
pub(super) fn proposed(partitions: u32) -> Vec<u16> {
    let members: Vec<(u64, f64)> = (0..u64::from(partitions)).map(|n| (n, 1.0)).collect();
    let slots = ring::propose(&members);
    debug_assert_eq!(slots.len(), SLOTS);
    slots
}

//! What a change of the catalogue means: a pure function of the catalogue and the change.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::ids::{CollectionId, Epoch, PartitionId};
use flotilla_proto::limits::COLLECTIONS_MAX;
use flotilla_proto::placement::{CollectionPlacement, Node, Partition, PlacementMap};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::ring;
use flotilla_proto::schema::{CollectionSpec, FieldType, IndexKind};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// A change, as the meta group's log holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A node joins, or tells its new address.
    Introduce(Node),
    /// A collection under a fresh incarnation.
    Create {
        /// Its incarnation.
        id: CollectionId,
        /// What it is.
        spec: CollectionSpec,
    },
    /// More declared fields, other search defaults.
    Update {
        /// Which collection.
        name: String,
        /// Fields to declare.
        add_fields: BTreeMap<String, FieldType>,
        /// `ef_search` by vector name.
        ef_search: BTreeMap<String, u32>,
    },
    /// The collection goes, with its records.
    Delete {
        /// Which.
        name: String,
    },
}

/// What a change that was made leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The collection as it is now.
    Placement(CollectionPlacement),
    /// The epoch from which on the change holds.
    Epoch(Epoch),
}

/// Why a change is refused by every replica alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Refused {
    NoCollection(String),
    Exists(String),
    Invalid(String, String),
    Full(String),
}

impl From<Violation> for Refused {
    fn from(v: Violation) -> Refused {
        Refused::Invalid(v.field, v.description)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused {
            Refused::NoCollection(name) => Refusal::NotFound("collection", name),
            Refused::Exists(name) => Refusal::AlreadyExists("collection", name),
            Refused::Invalid(field, description) => Refusal::Invalid(Violation { field, description }),
            Refused::Full(what) => {
                Refusal::Exhausted { what, retry_after: std::time::Duration::from_secs(60) }
            }
        }
    }
}

/// The state: the map, and the next free partition id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The map as others see it.
    pub map: PlacementMap,
    next_partition: u64,
}

impl Default for Catalogue {
    fn default() -> Catalogue {
        Catalogue { map: PlacementMap::default(), next_partition: 1 }
    }
}

impl Change {
    /// The change as the log holds it: a version byte, then postcard.
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        postcard::to_extend(self, vec![VERSION]).map(Bytes::from)
    }
}

/// The answer that the group gave, out of its bytes.
pub fn decode_outcome(bytes: &[u8]) -> Result<Result<Outcome, Refusal>, Refusal> {
    let outcome: Result<Outcome, Refused> =
        postcard::from_bytes(bytes).map_err(|e| Refusal::Internal(e.to_string()))?;
    Ok(outcome.map_err(Refusal::from))
}

impl Catalogue {
    /// Carries out an encoded change and encodes the answer.
    pub fn apply(&mut self, command: &[u8]) -> Result<Vec<u8>, postcard::Error> {
        let change = match command.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|e| e.to_string()),
            _ => Err("the change was written by a newer version".to_owned()),
        };
        let outcome = match change {
            Ok(change) => self.change(change),
            Err(why) => Err(Refused::Invalid("change".to_owned(), why)),
        };
        postcard::to_stdvec(&outcome)
    }

    fn change(&mut self, change: Change) -> Result<Outcome, Refused> {
        match change {
            Change::Introduce(node) => Ok(self.introduce(node)),
            Change::Create { id, spec } => self.create(id, spec),
            Change::Update { name, add_fields, ef_search } => self.update(&name, add_fields, ef_search),
            Change::Delete { name } => self.delete(&name),
        }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.map.epoch.0 += 1;
        self.map.epoch
    }

    fn introduce(&mut self, node: Node) -> Outcome {
        self.map.nodes.retain(|known| known.id != node.id);
        self.map.nodes.push(node);
        self.map.nodes.sort_by_key(|node| node.id);
        Outcome::Epoch(self.next_epoch())
    }

    fn create(&mut self, id: CollectionId, spec: CollectionSpec) -> Result<Outcome, Refused> {
        if self.map.collection(&spec.name).is_some() {
            return Err(Refused::Exists(spec.name));
        }
        if self.map.collections.len() >= COLLECTIONS_MAX {
            return Err(Refused::Full(format!("{COLLECTIONS_MAX} collections exist, and that is the limit")));
        }
        spec.check()?;
        let nodes = &self.map.nodes;
        let first = self.next_partition;
        self.next_partition += u64::from(spec.partitions);
        let partitions: Vec<Partition> = (0..u64::from(spec.partitions))
            .map(|n| {
                let node = nodes.get(n as usize % nodes.len().max(1)).map(|node| node.id);
                Partition::new(PartitionId(first + n), node.into_iter().collect())
            })
            .collect();
        // Ordinals, not ids, stand on the ring: every collection of as many partitions has the same slots.
        let members: Vec<(u64, f64)> = (0..u64::from(spec.partitions)).map(|n| (n, 1.0)).collect();
        let epoch = self.next_epoch();
        let placement = CollectionPlacement {
            id,
            spec,
            epoch,
            partitions,
            slots: ring::propose(&members),
            slot_move: None,
        };
        self.map.collections.push(placement.clone());
        self.map.collections.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(Outcome::Placement(placement))
    }

    fn update(
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
            match spec.vectors.get_mut(&vector).map(|v| &mut v.index) {
                Some(IndexKind::Hnsw(hnsw)) => hnsw.ef_search = ef,
                Some(IndexKind::Flat) | None => {
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
        Ok(Outcome::Placement(placement.clone()))
    }

    fn delete(&mut self, name: &str) -> Result<Outcome, Refused> {
        let at = self.position(name)?;
        self.map.collections.remove(at);
        Ok(Outcome::Epoch(self.next_epoch()))
    }

    fn position(&self, name: &str) -> Result<usize, Refused> {
        let found = self.map.collections.iter().position(|c| c.spec.name == name);
        found.ok_or_else(|| Refused::NoCollection(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::new(flotilla_proto::ids::NodeId(1), uuid::Uuid::nil(), "inproc")
    }

    fn spec(name: &str) -> CollectionSpec {
        CollectionSpec {
            name: name.into(),
            vectors: BTreeMap::new(),
            fields: BTreeMap::new(),
            partitions: 3,
            strict: false,
            ..Default::default()
        }
    }

    fn create(catalogue: &mut Catalogue, name: &str) -> CollectionPlacement {
        match catalogue.create(uuid::Uuid::from_u128(7), spec(name)).unwrap() {
            Outcome::Placement(placement) => placement,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn partition_ids_are_never_reused_and_each_change_is_an_epoch() {
        let mut catalogue = Catalogue::default();
        catalogue.introduce(node());
        let first = create(&mut catalogue, "a");
        assert_eq!(first.partitions.iter().map(|p| p.id.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(first.epoch, Epoch(2));
        catalogue.delete("a").unwrap();
        let again = create(&mut catalogue, "a");
        assert_eq!(again.partitions[0].id, PartitionId(4));
        assert_eq!(again.epoch, Epoch(4));
        assert!(again.partitions.iter().all(|p| p.replicas == [node().id]));
    }

    #[test]
    fn refusals_change_nothing_and_survive_encoding() {
        let mut catalogue = Catalogue::default();
        create(&mut catalogue, "a");
        let before = catalogue.clone();
        let refused = |catalogue: &mut Catalogue, change: Change| {
            let answer = catalogue.apply(&change.encode().unwrap()).unwrap();
            decode_outcome(&answer).unwrap().expect_err("refused")
        };
        let again = Change::Create { id: uuid::Uuid::nil(), spec: spec("a") };
        assert_eq!(refused(&mut catalogue, again), Refusal::AlreadyExists("collection", "a".into()));
        let gone = Change::Delete { name: "b".into() };
        assert_eq!(refused(&mut catalogue, gone), Refusal::NotFound("collection", "b".into()));
        let ef = Change::Update {
            name: "a".into(),
            add_fields: BTreeMap::new(),
            ef_search: [("v".to_owned(), 9)].into(),
        };
        assert!(refused(&mut catalogue, ef).to_string().contains("ef_search[v]"));
        assert_eq!(catalogue, before);
    }

    #[test]
    fn a_declared_field_keeps_its_type() {
        let mut catalogue = Catalogue::default();
        create(&mut catalogue, "a");
        let add = |kind| [("f".to_owned(), kind)].into();
        catalogue.update("a", add(FieldType::Integer), BTreeMap::new()).unwrap();
        catalogue.update("a", add(FieldType::Integer), BTreeMap::new()).unwrap();
        let refused: Refusal =
            catalogue.update("a", add(FieldType::Bool), BTreeMap::new()).unwrap_err().into();
        assert!(refused.to_string().contains("declared as integer and cannot become bool"));
    }
}

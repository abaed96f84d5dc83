//! The catalogue: a pure, deterministic state machine over the placement map.
//!
//! A [`Change`] comes out of the meta group's log and either is made, with an [`Outcome`], or refused, with a reason that
//! every replica finds alike. It reads no clock and asks nobody: who was alive when a collection was made, how large a
//! partition is, what a new id is, all that stands in the change. Every change of the map is a new epoch.
//!
//! Parts: [`nodes`] (who is a member), [`collections`] (what there is), [`moves`] (what is on its way), and [`spread`], which
//! chooses nodes for replicas; [`replaces`] (which generations there are), and [`tenants`] (whose they are);
//! [`fleet`] (how many nodes are asked for).

mod collections;
pub mod fleet;
pub mod moves;
mod nodes;
pub mod replaces;
pub mod spread;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::ids::{CollectionId, Epoch, NodeId};
use flotilla_proto::placement::{CollectionPlacement, Node, NodeState, PlacementMap, ReplaceId};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{CollectionSpec, FieldType};
use flotilla_proto::tenant::{Class, Classes, Isolation, Limit};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::fleet::Fleet;
use self::moves::{Control, Moves, NewMove};
use self::replaces::Turn;

const VERSION: u8 = 2;

/// A change, as the meta group's log holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A node joins (id 0), or tells its new address.
    Introduce(Node),
    /// A collection under a fresh incarnation.
    Create {
        /// Its incarnation.
        id: CollectionId,
        /// What it is; its replication factor is said.
        spec: CollectionSpec,
        /// The nodes that were heard of lately: only they get replicas.
        alive: Vec<NodeId>,
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
    /// A node may get more replicas, or its own are to move away.
    SetState {
        /// Which.
        node: NodeId,
        /// What it is from now on.
        state: NodeState,
    },
    /// A node without replicas leaves for ever.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// Who votes in the meta group.
    Voters(Vec<NodeId>),
    /// Moves to make, in this order for each partition; refused if the map has changed since `epoch`.
    Queue {
        /// The epoch of the plan.
        epoch: Epoch,
        /// The moves.
        moves: Vec<NewMove>,
    },
    /// A queued move begins.
    StartMove {
        /// Which.
        id: u64,
    },
    /// A move under way ended: well, or not.
    EndMove {
        /// Which.
        id: u64,
        /// Why not, if not.
        failure: Option<String>,
    },
    /// How far a move is.
    Report {
        /// Which.
        id: u64,
        /// Of a thousand.
        permille: u16,
        /// What it waits for.
        note: String,
    },
    /// Pause, resume, abort, rate.
    Control(Control),
    /// A collection gets partitions, which own nothing yet.
    Grow {
        /// Which collection.
        name: String,
        /// How many partitions it has then.
        partitions: u32,
        /// The nodes that were heard of lately.
        alive: Vec<NodeId>,
        /// With range: keys at which ranges are split first.
        splits: Vec<flotilla_proto::record::Key>,
    },
    /// Nothing: its answer tells the epoch then.
    Touch,
    /// A turn of a replacement of a generation.
    Replace {
        /// Of which collection.
        collection: CollectionId,
        /// Which.
        id: ReplaceId,
        /// What becomes of it.
        turn: Turn,
    },
    /// A collection of a tenant under a fresh incarnation.
    CreateFor {
        /// Its incarnation.
        id: CollectionId,
        /// What it is; its replication factor is said.
        spec: CollectionSpec,
        /// The nodes that were heard of lately: only they get replicas.
        alive: Vec<NodeId>,
        /// Whose it is to be.
        owner: Owner,
    },
    /// The limits of each class, as they are configured.
    Classes(Classes),
    /// The class that a tenant is of.
    Classify {
        /// Which tenant.
        tenant: String,
        /// Of which class.
        class: Class,
    },
    /// The tenants that store as much as they may; no others do.
    Full(BTreeSet<String>),
    /// So many shard nodes are asked for, or as many as there are.
    Scale(Option<u32>),
    /// This node is to go, with those of higher ordinals.
    Leave(NodeId),
    /// This node stays after all, and so do those of lower ordinals.
    Stay(NodeId),
}

/// Whose a new collection is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Whose.
    pub tenant: String,
    /// By what that tenant is limited.
    pub class: Class,
    /// How far it is kept apart.
    pub isolation: Isolation,
}

/// What a change that was made leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "there is one per change of the catalogue, which is rare")]
pub enum Outcome {
    /// The collection as it is now.
    Placement(CollectionPlacement),
    /// The epoch from which on the change holds.
    Epoch(Epoch),
    /// The node's id.
    Node(NodeId),
    /// The moves' ids.
    Moves(Vec<u64>),
    /// The epoch from which on it holds, and the generation that began; 0: none did.
    Replaced {
        /// See above.
        epoch: Epoch,
        /// See above.
        generation: u64,
    },
}

/// Why a change is refused by every replica alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Refused {
    NoCollection(String),
    NoNode(u64),
    NoMove(u64),
    Exists(String),
    Invalid(String, String),
    Full(String),
    Stale(String),
    Limited { tenant: String, limit: Limit, max: u64 },
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
            Refused::NoNode(id) => Refusal::NotFound("node", id.to_string()),
            Refused::NoMove(id) => Refusal::NotFound("move", id.to_string()),
            Refused::Exists(name) => Refusal::AlreadyExists("collection", name),
            Refused::Invalid(field, description) => Refusal::Invalid(Violation { field, description }),
            Refused::Full(what) => {
                Refusal::Exhausted { what, retry_after: std::time::Duration::from_secs(60) }
            }
            Refused::Stale(why) => Refusal::Aborted(why),
            Refused::Limited { tenant, limit, max } => {
                Refusal::Quota { tenant, limit, max, retry_after: limit.retry_after() }
            }
        }
    }
}

/// The state: the map, the counters of what is never used twice, and the moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The map as others see it.
    pub map: PlacementMap,
    /// What is on its way.
    pub moves: Moves,
    /// The limits of each class of tenants; stored behind the catalogue.
    #[serde(skip)]
    pub classes: Classes,
    /// How many nodes are asked for; stored behind the catalogue.
    #[serde(skip)]
    pub fleet: Fleet,
    next_partition: u64,
    next_node: u64,
    /// Nodes that left: they never come back under that identity.
    gone: BTreeMap<Uuid, NodeId>,
}

impl Default for Catalogue {
    fn default() -> Catalogue {
        Catalogue {
            map: PlacementMap::default(),
            moves: Moves::default(),
            classes: Classes::default(),
            fleet: Fleet::default(),
            next_partition: 1,
            next_node: 1,
            gone: BTreeMap::new(),
        }
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
            _ => Err("the change was written by another version".to_owned()),
        };
        let outcome = match change {
            Ok(change) => self.change(change),
            Err(why) => Err(Refused::Invalid("change".to_owned(), why)),
        };
        postcard::to_stdvec(&outcome)
    }

    fn change(&mut self, change: Change) -> Result<Outcome, Refused> {
        match change {
            Change::Introduce(node) => self.introduce(node),
            Change::Create { id, spec, alive } => self.create(id, spec, &alive, None),
            Change::Update { name, add_fields, ef_search } => self.update(&name, add_fields, ef_search),
            Change::Delete { name } => self.delete(&name),
            Change::SetState { node, state } => self.set_state(node, state),
            Change::Remove { node } => self.remove(node),
            Change::Voters(voters) => self.set_voters(voters),
            Change::Queue { epoch, moves } => self.queue(epoch, moves),
            Change::StartMove { id } => self.start_move(id),
            Change::EndMove { id, failure } => self.end_move(id, failure),
            Change::Report { id, permille, note } => self.report(id, permille, note),
            Change::Control(control) => self.control(control),
            Change::Touch => Ok(Outcome::Epoch(self.map.epoch)),
            Change::Grow { name, partitions, alive, splits } => self.grow(&name, partitions, &alive, splits),
            Change::Replace { collection, id, turn } => self.replace(collection, id, turn),
            Change::CreateFor { id, spec, alive, owner } => self.create(id, spec, &alive, Some(owner)),
            Change::Classes(classes) => Ok(self.set_classes(classes)),
            Change::Classify { tenant, class } => Ok(self.classify(&tenant, class)),
            Change::Full(tenants) => Ok(self.set_full(&tenants)),
            Change::Scale(to) => self.scale(to),
            Change::Leave(node) => self.leave(node),
            Change::Stay(node) => self.stay(node),
        }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.map.epoch.0 += 1;
        self.map.epoch
    }

    fn position(&self, name: &str) -> Result<usize, Refused> {
        let found = self.map.collections.iter().position(|c| c.spec.name == name);
        found.ok_or_else(|| Refused::NoCollection(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;

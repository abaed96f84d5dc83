//! What is on its way: replicas between nodes, slots between partitions.
//!
//! A move is queued, started (then the map shows it, and the leader of the partition carries it out) and ended. Per
//! partition, and for slots per collection, one is under way at a time and they start in the order of their ids. An abort
//! takes the change out of the map again: the leader then returns to what the map says. A move that has ended cannot be aborted.

use std::collections::BTreeMap;

use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{Change as PartitionChange, Role, SlotMove};
use serde::{Deserialize, Serialize};

use super::{Catalogue, Outcome, Refused};

/// Moves queued or under way, at most.
const MOVES_MAX: usize = 10_000;
/// Ended moves remembered.
const ENDED_MAX: usize = 200;

/// All moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    last: u64,
    list: BTreeMap<u64, Move>,
    /// Whether none starts.
    pub is_paused: bool,
    /// The rate of copying, per node; 0: as fast as it goes.
    pub bytes_per_second: u64,
}

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A voting replica comes, goes, or both.
    Replica {
        /// Of this partition.
        partition: PartitionId,
        /// Where to.
        add: Option<NodeId>,
        /// Where from.
        remove: Option<NodeId>,
    },
    /// Slots change their owner.
    Slots {
        /// Who gives them up.
        from: PartitionId,
        /// Who gets them.
        to: PartitionId,
        /// Which, ascending.
        slots: Vec<u16>,
    },
}

/// A move that is planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewMove {
    /// Of this collection.
    pub collection: CollectionId,
    /// What.
    pub kind: Kind,
    /// Bytes to copy, about.
    pub bytes: u64,
    /// What for.
    pub reason: String,
}

/// How a move stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for its turn.
    Queued,
    /// It is under way.
    Running,
    /// It is through.
    Done,
    /// It could not be made; nothing changed.
    Failed,
    /// It was called off; nothing changed.
    Aborted,
}

/// A move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Its number.
    pub id: u64,
    /// What was planned.
    pub what: NewMove,
    /// How it stands.
    pub state: State,
    /// How far it is, of a thousand.
    pub permille: u16,
    /// What it waits for, or why it failed.
    pub note: String,
}

/// What an operator does to moves under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// None starts any more.
    Pause,
    /// They start again.
    Resume,
    /// One is called off, or all.
    Abort(Option<u64>),
    /// Bytes per second; 0: as fast as it goes.
    Rate(u64),
}

impl Move {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Done | State::Failed | State::Aborted)
    }

    /// What it must not share with another one under way.
    fn subject(&self) -> (CollectionId, Option<PartitionId>) {
        match self.what.kind {
            Kind::Replica { partition, .. } => (self.what.collection, Some(partition)),
            Kind::Slots { .. } => (self.what.collection, None),
        }
    }
}

impl Moves {
    /// Every move that is remembered, by number.
    pub fn all(&self) -> impl Iterator<Item = &Move> {
        self.list.values()
    }

    /// The move of this number.
    pub fn get(&self, id: u64) -> Option<&Move> {
        self.list.get(&id)
    }

    /// Moves that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &Move> {
        self.list.values().filter(|m| !m.has_ended())
    }

    /// Queued moves whose turn it is: the first of each subject, if none of it is under way.
    pub fn due(&self) -> Vec<&Move> {
        if self.is_paused {
            return Vec::new();
        }
        let mut first = BTreeMap::new();
        for open in self.open() {
            first.entry(open.subject()).or_insert(open);
        }
        let mut due: Vec<&Move> = first.into_values().filter(|m| m.state == State::Queued).collect();
        due.sort_by_key(|m| m.id);
        due
    }

    /// A collection is gone: so are its moves.
    pub(super) fn forget(&mut self, collection: CollectionId) {
        for m in self.list.values_mut().filter(|m| m.what.collection == collection && !m.has_ended()) {
            m.state = State::Aborted;
            m.note = "the collection was deleted".to_owned();
        }
    }

    fn forget_oldest(&mut self) {
        let ended: Vec<u64> = self.list.values().filter(|m| m.has_ended()).map(|m| m.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            self.list.remove(id);
        }
    }

    fn get_mut(&mut self, id: u64) -> Result<&mut Move, Refused> {
        self.list.get_mut(&id).ok_or(Refused::NoMove(id))
    }
}

impl Catalogue {
    pub(super) fn queue(&mut self, epoch: Epoch, moves: Vec<NewMove>) -> Result<Outcome, Refused> {
        if epoch != self.map.epoch {
            let why =
                format!("the plan was made at epoch {epoch}, and now is {}: plan again", self.map.epoch);
            return Err(Refused::Stale(why));
        }
        if self.moves.open().count() + moves.len() > MOVES_MAX {
            return Err(Refused::Full(format!("at most {MOVES_MAX} moves may wait")));
        }
        let first = self.moves.last + 1;
        for what in moves {
            self.moves.last += 1;
            let id = self.moves.last;
            let queued = Move { id, what, state: State::Queued, permille: 0, note: String::new() };
            self.moves.list.insert(id, queued);
        }
        self.moves.forget_oldest();
        Ok(Outcome::Moves((first..=self.moves.last).collect()))
    }

    /// The map shows the move from now on; one that makes no sense any more fails instead.
    pub(super) fn start_move(&mut self, id: u64) -> Result<Outcome, Refused> {
        let started = self.moves.get_mut(id)?;
        if started.state != State::Queued {
            return Ok(Outcome::Epoch(self.map.epoch));
        }
        let (collection, kind) = (started.what.collection, started.what.kind.clone());
        if let Err(why) = self.show(id, collection, kind) {
            let failed = self.moves.get_mut(id)?;
            (failed.state, failed.note) = (State::Failed, why);
            return Ok(Outcome::Epoch(self.map.epoch));
        }
        self.moves.get_mut(id)?.state = State::Running;
        Ok(Outcome::Epoch(self.next_epoch()))
    }

    fn show(&mut self, id: u64, collection: CollectionId, kind: Kind) -> Result<(), String> {
        let nodes: Vec<NodeId> = self.map.nodes.iter().map(|node| node.id).collect();
        let learns = |node: NodeId| self.map.node(node).is_some_and(|node| node.role == Role::Replica);
        let learners: Vec<NodeId> = nodes.iter().copied().filter(|node| learns(*node)).collect();
        let epoch = Epoch(self.map.epoch.0 + 1);
        let found = self.map.collections.iter_mut().find(|c| c.id == collection);
        let placement = found.ok_or("the collection is gone")?;
        match kind {
            Kind::Replica { partition, add, remove } => {
                let found = placement.partitions.iter_mut().find(|p| p.id == partition);
                let partition = found.ok_or("the partition is gone")?;
                if partition.change.is_some() {
                    return Err("another change of the partition is under way".into());
                }
                if let Some(unknown) = add.filter(|node| !nodes.contains(node)) {
                    return Err(format!("node {unknown} is not a member"));
                }
                if let Some(learner) = add.or(remove).filter(|node| learners.contains(node)) {
                    // It has no vote: the map shows at once how it is to be, and the change is done when the group is so.
                    partition.learners.retain(|node| *node != learner);
                    partition.learners.extend(add);
                    partition.change = Some(PartitionChange { id, add: None, remove: None });
                    placement.epoch = epoch;
                    return Ok(());
                }
                if add.is_some_and(|node| partition.replicas.contains(&node)) {
                    return Err("the node has a replica already".into());
                }
                if remove.is_some_and(|node| !partition.replicas.contains(&node)) {
                    return Err("the node has no replica".into());
                }
                if add.is_none() && partition.replicas.len() < 2 {
                    return Err("the last replica stays".into());
                }
                partition.change = Some(PartitionChange { id, add, remove });
            }
            Kind::Slots { from, to, slots } => {
                if placement.slot_move.is_some() {
                    return Err("other slots of the collection are under way".into());
                }
                let ordinal = |wanted| placement.partitions.iter().position(|p| p.id == wanted);
                let (Some(owner), Some(_)) = (ordinal(from), ordinal(to)) else {
                    return Err("a partition is gone".into());
                };
                let is_owned = |slot: &u16| {
                    placement.slots.get(usize::from(*slot)) == u16::try_from(owner).ok().as_ref()
                };
                if !slots.iter().all(is_owned) {
                    return Err("a slot has another owner".into());
                }
                placement.slot_move = Some(SlotMove { id, from, to, slots });
            }
        }
        Ok(())
    }

    /// Makes what the move was for, or takes it out of the map.
    pub(super) fn end_move(&mut self, id: u64, failure: Option<String>) -> Result<Outcome, Refused> {
        let ended = self.moves.get_mut(id)?;
        match ended.state {
            State::Running => {}
            State::Done if failure.is_none() => return Ok(Outcome::Epoch(self.map.epoch)),
            state => return Err(Refused::Stale(format!("move {id} is not under way but {state:?}"))),
        }
        let is_made = failure.is_none();
        ended.state = if is_made { State::Done } else { State::Failed };
        ended.note = failure.unwrap_or_default();
        if is_made {
            ended.permille = 1000;
        }
        let collection = ended.what.collection;
        self.take_out(id, collection, is_made);
        self.moves.forget_oldest();
        Ok(Outcome::Epoch(self.map.epoch))
    }

    fn take_out(&mut self, id: u64, collection: CollectionId, is_made: bool) {
        let epoch = self.next_epoch();
        let learner = match self.moves.get(id).map(|m| &m.what.kind) {
            Some(Kind::Replica { remove: Some(node), .. }) => Some(*node),
            _ => None,
        };
        let learner = learner.filter(|node| self.map.node(*node).is_some_and(|n| n.role == Role::Replica));
        let Some(placement) = self.map.collections.iter_mut().find(|c| c.id == collection) else { return };
        placement.epoch = epoch;
        for partition in &mut placement.partitions {
            if partition.change.is_some_and(|change| change.id == id) {
                match learner.filter(|_| !is_made) {
                    // It was to go, and stays after all.
                    Some(learner) => partition.learners.push(learner),
                    None if is_made => partition.replicas = partition.wanted(),
                    None => {}
                }
                partition.change = None;
            }
        }
        if let Some(slots) = placement.slot_move.take_if(|m| m.id == id)
            && is_made
            && let Some(owner) = placement.partitions.iter().position(|p| p.id == slots.to)
            && let Ok(owner) = u16::try_from(owner)
        {
            // What was held back was split by the slots as they were.
            placement.replaces.open.clear();
            for slot in slots.slots {
                if let Some(held) = placement.slots.get_mut(usize::from(slot)) {
                    *held = owner;
                }
            }
        }
    }

    pub(super) fn report(&mut self, id: u64, permille: u16, note: String) -> Result<Outcome, Refused> {
        let reported = self.moves.get_mut(id)?;
        if !reported.has_ended() {
            (reported.permille, reported.note) = (permille.min(999), note);
        }
        Ok(Outcome::Epoch(self.map.epoch))
    }

    pub(super) fn control(&mut self, control: Control) -> Result<Outcome, Refused> {
        match control {
            Control::Pause => self.moves.is_paused = true,
            Control::Resume => self.moves.is_paused = false,
            Control::Rate(rate) => self.moves.bytes_per_second = rate,
            Control::Abort(Some(id)) => self.abort(id)?,
            Control::Abort(None) => {
                let open: Vec<u64> = self.moves.open().map(|m| m.id).collect();
                open.into_iter().try_for_each(|id| self.abort(id))?;
            }
        }
        Ok(Outcome::Epoch(self.map.epoch))
    }

    pub(super) fn abort(&mut self, id: u64) -> Result<(), Refused> {
        let aborted = self.moves.get_mut(id)?;
        if aborted.has_ended() {
            return Err(Refused::Stale(format!("move {id} has ended already")));
        }
        let was_running = aborted.state == State::Running;
        aborted.state = State::Aborted;
        let collection = aborted.what.collection;
        if was_running {
            self.take_out(id, collection, false);
        }
        Ok(())
    }
}

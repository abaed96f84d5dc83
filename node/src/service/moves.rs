//! Plans and moves at the edge: an operator's goal in, what has to be done out.
//!
//! A plan is made from the map and from what the nodes say of themselves; applying it makes the plan again and refuses if the
//! map has changed since the operator looked. Growing a collection adds its partitions first, then queues the moves of slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_proto::ids::{CollectionId, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, NodeState, Partition, PlacementMap};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::Strategy;
use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal as WireGoal;

use super::facts;
use crate::meta::Meta;
use crate::meta::catalogue::moves::{Control, Kind, Move, NewMove, State};
use crate::meta::catalogue::{Change, Outcome};
use crate::meta::plan::{self, Facts, Goal};
use crate::partition::registry::Registry;
use crate::peers::Peers;

/// How often slots are planned anew when the map changes meanwhile.
const TRIES_MAX: u32 = 20;
/// Bytes per second that a plan counts with where no rate is set.
const RATE_ASSUMED: u64 = 64 << 20;
/// What moves are for that a request for fewer nodes leads to.
const SCALE: &str = "scale";

/// Where plans are made: see the module.
pub struct Mover {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    peers: Arc<Peers>,
}

/// What an operator asked for.
enum Asked {
    Replicas(Goal),
    Leave(NodeId),
    Grow(String, u32),
}

fn asked(request: &v1::PlanRequest) -> Asked {
    match &request.goal {
        None | Some(WireGoal::Rebalance(_)) => Asked::Replicas(Goal::Rebalance),
        Some(WireGoal::Drain(node)) => Asked::Replicas(Goal::Drain(NodeId(*node))),
        Some(WireGoal::Remove(node)) => Asked::Leave(NodeId(*node)),
        Some(WireGoal::Replace(v1::Replace { node, by })) => {
            Asked::Replicas(Goal::Replace(NodeId(*node), (*by != 0).then_some(NodeId(*by))))
        }
        Some(WireGoal::MoveReplica(v1::MoveReplica { partition, from, to })) => {
            Asked::Replicas(Goal::Move(PartitionId(*partition), NodeId(*from), NodeId(*to)))
        }
        Some(WireGoal::Grow(v1::Grow { collection, partitions })) => {
            Asked::Grow(collection.clone(), *partitions)
        }
    }
}

impl Mover {
    /// Over this node.
    pub fn new(registry: Arc<Registry>, meta: Arc<Meta>, peers: Arc<Peers>) -> Mover {
        Mover { registry, meta, peers }
    }

    async fn facts(&self) -> Result<Facts, Refusal> {
        // Only the leader knows who is alive.
        self.meta.read_fence().await?;
        Ok(facts::gather(&self.registry, &self.meta, &self.peers, &BTreeMap::new()).await.facts)
    }

    /// What would have to be done.
    pub async fn plan(&self, request: v1::PlanRequest) -> Result<v1::PlanResponse, Refusal> {
        let facts = self.facts().await?;
        let map = self.meta.map();
        let (moves, warnings) = match asked(&request) {
            Asked::Replicas(goal) => {
                let planned = plan::plan(&map, &goal, &facts)?;
                (planned.moves, planned.warnings)
            }
            Asked::Leave(node) => (Vec::new(), vec![self.leaving(&map, node)?]),
            Asked::Grow(name, partitions) => {
                let placement = known(&map, &name)?;
                check_growth(placement, partitions)?;
                (slot_moves(&imagined(&self.expected(placement), partitions), &facts), of_ranges(placement))
            }
        };
        let rate = self.rate();
        let moves: Vec<v1::Move> = moves.iter().map(|new| planned_to_wire(new, &map, rate)).collect();
        Ok(v1::PlanResponse {
            epoch: map.epoch.0,
            bytes: moves.iter().map(|m| m.bytes).sum(),
            seconds: moves.iter().map(|m| m.seconds).sum(),
            moves,
            warnings,
        })
    }

    fn leaving(&self, map: &PlacementMap, node: NodeId) -> Result<String, Refusal> {
        if map.node(node).is_none() {
            return Err(Violation::new("remove", format!("there is no node {node}")).into());
        }
        let held = map.partitions().filter(|(_, p)| p.holders().any(|held| held == node)).count();
        Ok(format!(
            "node {node} holds {held} replicas; it leaves once it has no voting one, and never comes back"
        ))
    }

    fn rate(&self) -> u64 {
        match self.meta.look(|catalogue| catalogue.moves.bytes_per_second) {
            0 => RATE_ASSUMED,
            rate => rate,
        }
    }

    /// Has a collection grow to so many partitions.
    pub async fn grow(&self, collection: String, partitions: u32) -> Result<(), Refusal> {
        let goal = Some(WireGoal::Grow(v1::Grow { collection, partitions }));
        self.apply(v1::ApplyRequest { plan: Some(v1::PlanRequest { goal }), epoch: 0 }).await.map(drop)
    }

    /// Makes the plan happen.
    pub async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Refusal> {
        let goal = asked(&request.plan.unwrap_or_default());
        let facts = self.facts().await?;
        let map = self.meta.map();
        if request.epoch != 0 && request.epoch != map.epoch.0 {
            let why =
                format!("the plan was made at epoch {}, and now is {}: plan again", request.epoch, map.epoch);
            return Err(Refusal::Aborted(why));
        }
        let moves = match goal {
            Asked::Replicas(goal) => {
                let planned = plan::plan(&map, &goal, &facts)?;
                if let Goal::Drain(node) | Goal::Replace(node, _) = goal {
                    let state = NodeState::Draining;
                    self.meta.change(Change::SetState { node, state }).await?;
                }
                planned.moves
            }
            Asked::Leave(node) => {
                self.meta.change(Change::Remove { node }).await?;
                Vec::new()
            }
            Asked::Grow(name, partitions) => {
                let placement = known(&map, &name)?;
                check_growth(placement, partitions)?;
                let alive = facts.alive.iter().copied().collect();
                let splits =
                    super::splits::choose(&self.registry, &self.peers, placement, partitions, &facts).await?;
                let grow = Change::Grow { name, partitions, alive, splits };
                let grown = if placement.partitions.len() as u32 == partitions {
                    placement.clone()
                } else {
                    self.meta.placement(grow).await?
                };
                return self.queue_slots(grown.id, &facts).await;
            }
        };
        if moves.is_empty() {
            return Ok(v1::ApplyResponse { moves: Vec::new() });
        }
        let epoch = self.meta.map().epoch;
        match self.meta.change(Change::Queue { epoch, moves }).await? {
            Outcome::Moves(moves) => Ok(v1::ApplyResponse { moves }),
            other => Err(Refusal::Internal(format!("queueing led to {other:?}"))),
        }
    }

    /// Queues what is still to move away from the nodes that leave, so that a request for fewer goes on whatever failed, was
    /// aborted, or came meanwhile.
    pub async fn keep_draining(&self, facts: &Facts) -> Result<(), Refusal> {
        let (leaving, busy) = self.meta.look(|catalogue| {
            let partition = |m: &Move| match m.what.kind {
                Kind::Replica { partition, .. } => Some(partition),
                Kind::Slots { .. } => None,
            };
            let busy: BTreeSet<PartitionId> = catalogue.moves.open().filter_map(partition).collect();
            (catalogue.fleet.leaving.clone(), busy)
        });
        for node in leaving {
            let map = self.meta.map();
            let mut planned = plan::plan(&map, &Goal::Drain(node), facts)?;
            for warning in planned.warnings {
                tracing::debug!(node = node.0, warning, "the node cannot be drained yet");
            }
            planned.moves.retain(
                |new| !matches!(new.kind, Kind::Replica { partition, .. } if busy.contains(&partition)),
            );
            if planned.moves.is_empty() {
                continue;
            }
            for new in &mut planned.moves {
                new.reason = SCALE.to_owned();
            }
            self.meta.change(Change::Queue { epoch: map.epoch, moves: planned.moves }).await?;
        }
        Ok(())
    }

    /// Asks for so many shard nodes, or for as many as there are.
    pub async fn scale(&self, to: Option<u32>) -> Result<(), Refusal> {
        self.meta.change(Change::Scale(to)).await.map(drop)
    }

    /// The collection as it will be when the moves of slots that are queued or under way are through.
    fn expected(&self, placement: &CollectionPlacement) -> CollectionPlacement {
        let mut expected = placement.clone();
        let open: Vec<NewMove> =
            self.meta.look(|catalogue| catalogue.moves.open().map(|m| m.what.clone()).collect());
        for what in open.into_iter().filter(|what| what.collection == placement.id) {
            let Kind::Slots { to, slots, .. } = what.kind else { continue };
            let owner =
                placement.partitions.iter().position(|p| p.id == to).and_then(|at| u16::try_from(at).ok());
            for slot in slots {
                if let (Some(owner), Some(held)) = (owner, expected.slots.get_mut(usize::from(slot))) {
                    *held = owner;
                }
            }
        }
        expected
    }

    /// Queues what evens out the slots, behind the moves that wait already. Other moves change the map meanwhile: then it is
    /// planned again.
    async fn queue_slots(
        &self,
        collection: CollectionId,
        facts: &Facts,
    ) -> Result<v1::ApplyResponse, Refusal> {
        let mut tries = 0;
        loop {
            let map = self.meta.map();
            let gone = || Refusal::NotFound("collection", collection.to_string());
            let placement = map.collection_by_id(collection).ok_or_else(gone)?;
            let moves = slot_moves(&self.expected(placement), facts);
            if moves.is_empty() {
                return Ok(v1::ApplyResponse { moves: Vec::new() });
            }
            tries += 1;
            match self.meta.change(Change::Queue { epoch: map.epoch, moves }).await {
                Ok(Outcome::Moves(moves)) => return Ok(v1::ApplyResponse { moves }),
                Ok(other) => return Err(Refusal::Internal(format!("queueing led to {other:?}"))),
                Err(Refusal::Aborted(_)) if tries < TRIES_MAX => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// Every move that is remembered.
    pub async fn moves(&self) -> Result<v1::MovesResponse, Refusal> {
        self.meta.read_fence().await?;
        let (map, rate) = (self.meta.map(), self.rate());
        Ok(self.meta.look(|catalogue| v1::MovesResponse {
            moves: catalogue.moves.all().map(|m| move_to_wire(m, &map, rate)).collect(),
            paused: catalogue.moves.is_paused,
            bytes_per_second: catalogue.moves.bytes_per_second,
        }))
    }

    /// Pauses, resumes, aborts, sets the rate.
    pub async fn control(&self, request: v1::ControlRequest) -> Result<(), Refusal> {
        let mut controls = Vec::new();
        match request.control() {
            v1::MoveControl::Pause => controls.push(Control::Pause),
            v1::MoveControl::Resume => controls.push(Control::Resume),
            v1::MoveControl::Abort if request.r#move == 0 => controls.push(Control::Abort(None)),
            v1::MoveControl::Abort => controls.push(Control::Abort(Some(request.r#move))),
            v1::MoveControl::Unspecified if request.bytes_per_second.is_some() => {}
            v1::MoveControl::Unspecified => {
                return Err(Violation::new("control", "is missing").into());
            }
        }
        controls.extend(request.bytes_per_second.map(Control::Rate));
        for control in controls {
            self.meta.change(Change::Control(control)).await?;
        }
        Ok(())
    }

    /// Queues the rebuild of a replica that is of no use any more, unless something is under way with its partition.
    pub async fn rebuild(&self, partition: PartitionId, node: NodeId) -> Result<(), Refusal> {
        let is_ours = |m: &&Move| matches!(m.what.kind, Kind::Replica { partition: p, .. } if p == partition);
        let open: Option<Move> = self.meta.look(|catalogue| catalogue.moves.open().find(is_ours).cloned());
        if let Some(open) = open {
            let comes = matches!(open.what.kind, Kind::Replica { add: Some(add), .. } if add == node);
            if !comes || open.state != State::Running {
                return Ok(());
            }
            // It broke while it came: it will never have come. It goes, and comes once more.
            let failure = Some("the replica broke while it came".to_owned());
            self.meta.change(Change::EndMove { id: open.id, failure }).await?;
        }
        let map = self.meta.map();
        let votes = |p: &Partition| p.replicas.contains(&node);
        let can_spare = map.partition(partition).is_some_and(|(_, p)| p.replicas.len() >= 3 || !votes(p));
        if !can_spare {
            return Err(Refusal::Unavailable("fewer than three replicas: none can be spared".to_owned()));
        }
        let planned = plan::plan(&map, &Goal::Rebuild(partition, node), &Facts::default())?;
        self.meta.change(Change::Queue { epoch: map.epoch, moves: planned.moves }).await.map(drop)
    }
}

fn known<'a>(map: &'a PlacementMap, name: &str) -> Result<&'a CollectionPlacement, Refusal> {
    map.collection(name).ok_or_else(|| Refusal::NotFound("collection", name.to_owned()))
}

fn check_growth(placement: &CollectionPlacement, partitions: u32) -> Result<(), Refusal> {
    let (has, max) = (placement.partitions.len() as u32, flotilla_proto::limits::PARTITIONS_MAX);
    if partitions < has || partitions > max {
        return Err(Violation::range("grow.partitions", has, max, partitions).into());
    }
    Ok(())
}

/// What a plan for ranges does not know yet.
fn of_ranges(placement: &CollectionPlacement) -> Vec<String> {
    match placement.spec.strategy {
        Strategy::ConsistentHash | Strategy::ShardKey { .. } => Vec::new(),
        Strategy::Range { .. } => {
            vec![
                "ranges are split first, at keys that are chosen when this is applied; more will move then"
                    .into(),
            ]
        }
    }
}

/// The collection as it would be with more partitions, which have no ids yet.
fn imagined(placement: &CollectionPlacement, partitions: u32) -> CollectionPlacement {
    let mut grown = placement.clone();
    let missing = (partitions as usize).saturating_sub(grown.partitions.len());
    let fresh = flotilla_proto::placement::Partition::new(PartitionId(0), Vec::new());
    grown.partitions.extend(std::iter::repeat_n(fresh, missing));
    grown
}

/// The slots that have to change their owner for an even spread: one move for each pair of partitions.
fn slot_moves(placement: &CollectionPlacement, facts: &Facts) -> Vec<NewMove> {
    let moves = plan::slot_moves(placement);
    let owned =
        |ordinal: u16| placement.slots.iter().filter(|owner| **owner == ordinal).count().max(1) as u64;
    let planned = |(from, to, slots): (u16, u16, Vec<u16>)| {
        let giver = placement.partitions.get(usize::from(from)).map_or(PartitionId(0), |p| p.id);
        let taker = placement.partitions.get(usize::from(to)).map_or(PartitionId(0), |p| p.id);
        let bytes = facts.bytes.get(&giver).copied().unwrap_or(0) * slots.len() as u64 / owned(from);
        let kind = Kind::Slots { from: giver, to: taker, slots };
        NewMove { collection: placement.id, kind, bytes, reason: "grow".to_owned() }
    };
    moves.into_iter().map(planned).collect()
}

fn planned_to_wire(new: &NewMove, map: &PlacementMap, rate: u64) -> v1::Move {
    let mut wire = v1::Move {
        collection: map.collection_by_id(new.collection).map(|c| c.spec.name.clone()).unwrap_or_default(),
        bytes: new.bytes,
        seconds: new.bytes as f64 / rate.max(1) as f64,
        reason: new.reason.clone(),
        ..Default::default()
    };
    match &new.kind {
        Kind::Replica { partition, add, remove } => {
            wire.partition = partition.0;
            wire.add = add.map_or(0, |node| node.0);
            wire.remove = remove.map_or(0, |node| node.0);
        }
        Kind::Slots { from, to, slots } => {
            wire.partition = from.0;
            wire.to_partition = to.0;
            wire.slots = slots.iter().map(|slot| u32::from(*slot)).collect();
        }
    }
    wire
}

fn move_to_wire(m: &Move, map: &PlacementMap, rate: u64) -> v1::Move {
    let state = match m.state {
        State::Queued => v1::MoveState::Queued,
        State::Running => v1::MoveState::Running,
        State::Done => v1::MoveState::Done,
        State::Failed => v1::MoveState::Failed,
        State::Aborted => v1::MoveState::Aborted,
    };
    v1::Move {
        id: m.id,
        state: state.into(),
        progress: f64::from(m.permille) / 1000.0,
        note: m.note.clone(),
        ..planned_to_wire(&m.what, map, rate)
    }
}

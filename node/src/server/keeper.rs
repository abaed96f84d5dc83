//! Keeps each group that this node leads as the map wants it: one guarded step at a time.
//!
//! ```text
//! a replica comes: add as learner -> it catches up -> gets its vote
//! a replica goes:  lead elsewhere, if it leads -> loses its vote and its place
//! both are done:   the meta group is told, and the map shows it
//! ```
//!
//! Each step is chosen anew from what the map wants and what the group's membership is, so a leader that takes over goes on
//! where the last one stopped, and an aborted move is undone by the same steps. No step is made while one is under way,
//! and none that leaves fewer answering voters than a quorum.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::placement::Partition;
use flotilla_proto::refusal::Refusal;
use futures::StreamExt as _;
use parking_lot::Mutex;

use crate::env::clock;
use crate::machine::PartitionMachine;
use crate::meta::Meta;
use crate::meta::catalogue::Change;
use crate::partition::Replica;
use crate::partition::registry::Registry;
use crate::peers::Peers;
use crate::raft::{Group, Members};
use crate::worker::slots::Pace;

use super::replaces::ReplaceKeeper;
use super::slots::SlotKeepers;

const TICK: Duration = Duration::from_millis(200);
/// Groups looked at at one time.
const AT_ONCE: usize = 16;
/// Entries that a learner may lack when it gets its vote.
const LAG_MAX: u64 = 100;
/// How long a leadership lasts before it goes to the preferred leader.
const SETTLED: Duration = Duration::from_secs(10);
/// How often a move's progress is told.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const SUBMIT_MAX: Duration = Duration::from_secs(5);

/// The next step of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing to do.
    Rest,
    /// Something has to come first.
    Wait(String),
    /// End a joint membership.
    Settle(Vec<NodeId>),
    AddLearner(NodeId),
    AddVoter(NodeId),
    HandOver(NodeId),
    Remove(NodeId),
    /// The move of this number is through.
    Done(u64),
}

/// What a step is chosen from, besides the map and the membership.
struct Seen<'a> {
    node: NodeId,
    lag_of: &'a dyn Fn(NodeId) -> Option<u64>,
    hears: &'a dyn Fn(NodeId) -> bool,
}

/// The next step: pure.
fn step(partition: &Partition, members: &Members, seen: &Seen<'_>) -> Step {
    let wanted = partition.wanted();
    if members.is_joint {
        return Step::Settle(wanted);
    }
    let is_fit =
        |node: &&NodeId| (seen.hears)(**node) && (seen.lag_of)(**node).is_some_and(|lag| lag < LAG_MAX);
    let heir = wanted.iter().filter(|node| members.voters.contains(node)).find(is_fit);
    // Never out of the group while it leads: whom openraft chooses then would lead beside this node's lease.
    let hand_over =
        || heir.map_or_else(|| Step::Wait("nobody can lead yet".into()), |heir| Step::HandOver(*heir));
    if heir.is_some() && !partition.holders().any(|node| node == seen.node) {
        // The map does not show this node (a move was called off): no caller finds it.
        return hand_over();
    }
    if let Some(comes) = wanted.iter().find(|node| !members.voters.contains(node)) {
        if !members.contains(*comes) {
            return Step::AddLearner(*comes);
        }
        return match (seen.lag_of)(*comes) {
            Some(lag) if lag < LAG_MAX => Step::AddVoter(*comes),
            Some(lag) => Step::Wait(format!("node {comes} is {lag} entries behind")),
            None => Step::Wait(format!("node {comes} does not answer")),
        };
    }
    if let Some(goes) = members.voters.iter().find(|node| !wanted.contains(node)) {
        let answering = wanted.iter().filter(|node| **node == seen.node || (seen.hears)(**node)).count();
        if answering < wanted.len() / 2 + 1 {
            return Step::Wait(format!("{answering} of {} voters answer: too few to lose one", wanted.len()));
        }
        if *goes == seen.node {
            return hand_over();
        }
        return Step::Remove(*goes);
    }
    if let Some(comes) = partition.learners.iter().find(|node| !members.contains(**node)) {
        return Step::AddLearner(*comes);
    }
    if let Some(goes) = members.learners.iter().find(|node| !partition.learners.contains(node)) {
        return if *goes == seen.node { hand_over() } else { Step::Remove(*goes) };
    }
    partition.change.map_or(Step::Rest, |change| Step::Done(change.id))
}

/// What is remembered of a group between two looks.
struct Memory {
    leads_since: clock::Instant,
    reported: Option<clock::Instant>,
    lag_at_first: u64,
}

/// See the module.
pub(super) struct Keeper {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    memory: Mutex<HashMap<PartitionId, Memory>>,
    slots: SlotKeepers,
    replaces: ReplaceKeeper,
}

impl Keeper {
    /// Over this node's replicas.
    pub fn new(registry: Arc<Registry>, meta: Arc<Meta>, peers: Arc<Peers>, pace: Pace) -> Keeper {
        let slots = SlotKeepers::new(registry.clone(), meta.clone(), peers, pace);
        let replaces = ReplaceKeeper::new(meta.clone());
        Keeper { registry, meta, memory: Mutex::default(), slots, replaces }
    }

    /// Runs until the task is aborted.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let led: Vec<Arc<Replica>> =
                self.registry.serving().into_iter().filter(|replica| replica.group().leads()).collect();
            self.memory.lock().retain(|id, _| led.iter().any(|replica| replica.id() == *id));
            self.replaces.retain(|id| led.iter().any(|replica| replica.id() == id));
            self.slots.look_after(&led).await;
            futures::stream::iter(&led)
                .for_each_concurrent(AT_ONCE, |replica| async {
                    self.replaces.look_after(replica).await;
                    self.look_after(replica).await;
                })
                .await;
        }
    }

    async fn look_after(&self, replica: &Arc<Replica>) {
        let map = self.meta.map();
        let Some((_, partition)) = map.partition(replica.id()) else { return };
        let group = replica.group();
        let members = group.members();
        if !members.is_committed {
            return;
        }
        let is_short = group.has_space().is_err()
            // That others are short too is not known here: leaderships must not go round and round.
            || self.registry.room().has_disk().is_err() && self.remember(replica.id()).elapsed() > SETTLED;
        if is_short && !members.is_alone(group.node()) {
            // The others may have space; this one gets its leadership back once it has some, and answers again.
            tracing::debug!(partition = replica.id().0, "the leadership goes to a node with space");
            if let Err(why) = group.step_aside().await {
                tracing::debug!(partition = replica.id().0, %why, "the leadership stays");
            }
            return;
        }
        let lag_of = |node| group.lag_of(node);
        let hears = |node| group.hears(node);
        let next = step(partition, &members, &Seen { node: group.node(), lag_of: &lag_of, hears: &hears });
        let leads_since = self.remember(replica.id());
        let done = match next {
            Step::Rest => self.balance(group, partition, leads_since).await,
            Step::Wait(note) => self.report(group, partition, note).await,
            Step::Settle(voters) => group.settle(&voters).await,
            Step::AddLearner(node) => group.add_learner(node).await,
            Step::AddVoter(node) => group.add_voter(node).await,
            Step::HandOver(node) => group.hand_over(node).await,
            Step::Remove(node) => group.remove(node).await,
            Step::Done(id) => {
                let through = Change::EndMove { id, failure: None };
                self.meta.submit(through, SUBMIT_MAX).await.map(drop)
            }
        };
        match done {
            Ok(()) => {}
            // Another leader takes it from here, or this one tries again.
            Err(why @ (Refusal::NotLeader { .. } | Refusal::Unavailable(_) | Refusal::Aborted(_))) => {
                tracing::debug!(partition = replica.id().0, %why, "a step of the membership waits");
            }
            Err(why) => tracing::warn!(partition = replica.id().0, %why, "a step of the membership failed"),
        }
    }

    fn remember(&self, id: PartitionId) -> clock::Instant {
        let mut memory = self.memory.lock();
        let now = clock::now();
        memory.entry(id).or_insert(Memory { leads_since: now, reported: None, lag_at_first: 0 }).leads_since
    }

    /// Gives the leadership to the preferred leader once it is fit for it.
    async fn balance(
        &self,
        group: &Group<PartitionMachine>,
        partition: &Partition,
        since: clock::Instant,
    ) -> Result<(), Refusal> {
        let Some(preferred) = partition.replicas.first().copied() else { return Ok(()) };
        let is_fit = group.hears(preferred) && group.lag_of(preferred).is_some_and(|lag| lag < LAG_MAX);
        if preferred != group.node() && is_fit && since.elapsed() > SETTLED {
            tracing::info!(
                partition = group.id().0,
                node = preferred.0,
                "leadership goes to the preferred leader"
            );
            self.memory.lock().remove(&group.id());
            return group.hand_over(preferred).await;
        }
        Ok(())
    }

    /// Tells how far the copy is, not too often.
    async fn report(
        &self,
        group: &Group<PartitionMachine>,
        partition: &Partition,
        note: String,
    ) -> Result<(), Refusal> {
        let Some(change) = partition.change else { return Ok(()) };
        let lag = change.add.and_then(|node| group.lag_of(node)).unwrap_or(0);
        let permille = {
            let mut memory = self.memory.lock();
            let Some(memory) = memory.get_mut(&group.id()) else { return Ok(()) };
            if memory.reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
                return Ok(());
            }
            memory.reported = Some(clock::now());
            memory.lag_at_first = memory.lag_at_first.max(lag).max(1);
            (900 - lag.saturating_mul(900) / memory.lag_at_first).min(900) as u16
        };
        let change = Change::Report { id: change.id, permille, note };
        self.meta.submit(change, SUBMIT_MAX).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use flotilla_proto::placement::Change as PartitionChange;

    use super::*;

    fn partition(replicas: &[u64], add: Option<u64>, remove: Option<u64>) -> Partition {
        let mut partition = Partition::new(PartitionId(1), replicas.iter().map(|n| NodeId(*n)).collect());
        if add.is_some() || remove.is_some() {
            partition.change =
                Some(PartitionChange { id: 9, add: add.map(NodeId), remove: remove.map(NodeId) });
        }
        partition
    }

    fn members(voters: &[u64], learners: &[u64]) -> Members {
        let set = |nodes: &[u64]| nodes.iter().map(|n| NodeId(*n)).collect::<BTreeSet<NodeId>>();
        Members { voters: set(voters), learners: set(learners), is_committed: true, ..Members::default() }
    }

    fn next(partition: &Partition, members: &Members, lag: u64, dead: &[u64]) -> Step {
        let is_dead = |node: NodeId| dead.contains(&node.0);
        let lag_of = |node| (!is_dead(node)).then_some(lag);
        let hears = |node| !is_dead(node);
        step(partition, members, &Seen { node: NodeId(1), lag_of: &lag_of, hears: &hears })
    }

    #[test]
    fn a_replica_moves_step_by_step() {
        let moving = partition(&[1, 2, 3], Some(4), Some(3));
        assert_eq!(next(&moving, &members(&[1, 2, 3], &[]), 0, &[]), Step::AddLearner(NodeId(4)));
        let learning = members(&[1, 2, 3], &[4]);
        assert!(matches!(next(&moving, &learning, 500, &[]), Step::Wait(_)));
        assert!(matches!(next(&moving, &learning, 0, &[4]), Step::Wait(_)));
        assert_eq!(next(&moving, &learning, 5, &[]), Step::AddVoter(NodeId(4)));
        assert_eq!(next(&moving, &members(&[1, 2, 3, 4], &[]), 5, &[]), Step::Remove(NodeId(3)));
        assert_eq!(next(&moving, &members(&[1, 2, 4], &[]), 5, &[]), Step::Done(9));
        assert_eq!(next(&partition(&[1, 2, 4], None, None), &members(&[1, 2, 4], &[]), 5, &[]), Step::Rest);
    }

    #[test]
    fn a_leader_that_goes_hands_over_first() {
        let moving = partition(&[1, 2, 3], Some(4), Some(1));
        assert_eq!(next(&moving, &members(&[1, 2, 3, 4], &[]), 5, &[]), Step::HandOver(NodeId(4)));
        assert_eq!(next(&moving, &members(&[1, 2, 3, 4], &[]), 5, &[4]), Step::HandOver(NodeId(2)));
    }

    #[test]
    fn a_dead_node_is_replaced_and_a_quorum_is_kept() {
        let replacing = partition(&[1, 2, 3], Some(4), Some(3));
        assert_eq!(next(&replacing, &members(&[1, 2, 3, 4], &[]), 5, &[3]), Step::Remove(NodeId(3)));
        assert!(matches!(next(&replacing, &members(&[1, 2, 3, 4], &[]), 5, &[2, 4]), Step::Wait(_)));
    }

    #[test]
    fn an_aborted_move_is_undone() {
        let aborted = partition(&[1, 2, 3], None, None);
        assert_eq!(next(&aborted, &members(&[1, 2, 3], &[4]), 5, &[]), Step::Remove(NodeId(4)));
        assert_eq!(next(&aborted, &members(&[1, 2, 3, 4], &[]), 5, &[]), Step::Remove(NodeId(4)));
        assert_eq!(next(&aborted, &members(&[1, 2, 4], &[]), 5, &[]), Step::AddLearner(NodeId(3)));
        let elsewhere = partition(&[2, 3, 4], None, None);
        assert_eq!(next(&elsewhere, &members(&[1, 2, 3], &[]), 5, &[2]), Step::HandOver(NodeId(3)));
        assert_eq!(next(&elsewhere, &members(&[1, 2, 3], &[]), 5, &[2, 3]), Step::AddLearner(NodeId(4)));
        let settled = members(&[2, 3, 4], &[1]);
        assert_eq!(next(&elsewhere, &settled, 5, &[2]), Step::HandOver(NodeId(3)), "and leads still");
        assert!(matches!(next(&elsewhere, &settled, 5, &[2, 3, 4]), Step::Wait(_)));
        let joint = Members { is_joint: true, ..members(&[1, 2, 3, 4], &[]) };
        assert_eq!(next(&aborted, &joint, 5, &[]), Step::Settle(vec![NodeId(1), NodeId(2), NodeId(3)]));
    }

    #[test]
    fn learners_come_and_go() {
        let mut with_learner = partition(&[1], None, None);
        with_learner.learners = vec![NodeId(7)];
        assert_eq!(next(&with_learner, &members(&[1], &[]), 0, &[]), Step::AddLearner(NodeId(7)));
        assert_eq!(next(&with_learner, &members(&[1], &[7, 8]), 0, &[]), Step::Remove(NodeId(8)));
        assert_eq!(next(&with_learner, &members(&[1], &[7]), 0, &[]), Step::Rest);
    }
}

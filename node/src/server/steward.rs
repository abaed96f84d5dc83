//! What the leader of the meta group sees to: who is in that group, which moves begin, which replicas are made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::placement::Role;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::tenant::Classes;

use super::stored::{Stored, by_tenant};
use crate::env::clock;
use crate::meta::Meta;
use crate::meta::autoscale::{self, Autoscaler, Look};
use crate::meta::catalogue::Change;
use crate::meta::catalogue::fleet;
use crate::meta::catalogue::moves::{Kind, Move, State};
use crate::meta::growth::{self, Thresholds};
use crate::partition::registry::Registry;
use crate::peers::Peers;
use crate::service::Mover;
use crate::service::facts::{self, Gathered};

const TICK: Duration = Duration::from_millis(250);
/// How often replicas that do not serve are asked for, and disks.
const SURVEY_EVERY: Duration = Duration::from_secs(2);
/// A voter of the meta group that is silent for this long is replaced, if another node can.
const PATIENCE: Duration = Duration::from_secs(30);
/// Replicas that come to one node at one time.
const COMING_MAX: usize = 2;
/// Entries that a node may lack when it gets a vote in the meta group.
const LAG_MAX: u64 = 100;

/// See the module.
pub(super) struct Steward {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    peers: Arc<Peers>,
    mover: Arc<Mover>,
    growth: Thresholds,
    classes: Option<Classes>,
    autoscale: autoscale::Options,
}

/// What is remembered while this node leads.
struct Reign {
    heard: HashMap<NodeId, clock::Instant>,
    surveyed: Option<clock::Instant>,
    /// Whether a cluster was advised.
    is_advised: bool,
    free: BTreeMap<NodeId, u64>,
    stored: Stored,
    began: clock::Instant,
    autoscaler: Autoscaler,
}

impl Steward {
    /// Over this node.
    pub fn new(
        registry: Arc<Registry>,
        meta: Arc<Meta>,
        peers: Arc<Peers>,
        mover: Arc<Mover>,
        (growth, classes, autoscale): (Thresholds, Option<Classes>, autoscale::Options),
    ) -> Steward {
        Steward { registry, meta, peers, mover, growth, classes, autoscale }
    }

    /// Runs until the task is aborted.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reign = None;
        loop {
            ticks.tick().await;
            if !self.meta.group().leads() {
                if reign.take().is_some() {
                    self.meta.advise(None);
                }
                continue;
            }
            let reign = reign.get_or_insert_with(|| Reign {
                heard: self.meta.map().nodes.iter().map(|node| (node.id, clock::now())).collect(),
                surveyed: None,
                is_advised: false,
                free: Default::default(),
                stored: Stored::default(),
                began: clock::now(),
                autoscaler: Autoscaler::new(self.autoscale),
            });
            for done in [
                self.keep_group(reign).await,
                self.keep_classes().await,
                self.start_moves(reign).await,
                self.survey(reign).await,
            ] {
                match done {
                    Ok(()) => {}
                    Err(
                        why @ (Refusal::NotLeader { .. } | Refusal::Unavailable(_) | Refusal::Aborted(_)),
                    ) => {
                        tracing::debug!(%why, "the steward tries again");
                    }
                    Err(why) => tracing::warn!(%why, "a step of the steward failed"),
                }
            }
        }
    }

    /// Every node has a replica of the meta group, and the right ones vote.
    async fn keep_group(&self, reign: &mut Reign) -> Result<(), Refusal> {
        let group = self.meta.group();
        let (map, members, own) = (self.meta.map(), group.members(), group.node());
        for node in &map.nodes {
            if group.hears(node.id) {
                reign.heard.insert(node.id, clock::now());
            }
        }
        if !members.is_committed || map.nodes.is_empty() {
            return Ok(());
        }
        let is_alive = |node: NodeId| reign.heard.get(&node).is_some_and(|at| at.elapsed() < PATIENCE);
        let wanted = self.meta.look(|catalogue| catalogue.voters_wanted(is_alive));
        let wanted = if wanted.is_empty() { vec![own] } else { wanted };
        if members.is_joint {
            return group.settle(&wanted).await;
        }
        if let Some(comes) = map.nodes.iter().find(|node| !members.contains(node.id)) {
            return group.add_learner(comes.id).await;
        }
        let is_near = |node: NodeId| group.lag_of(node).is_some_and(|lag| lag < LAG_MAX);
        if let Some(comes) = wanted
            .iter()
            .find(|node| !members.voters.contains(node) && group.hears(**node) && is_near(**node))
        {
            return group.add_voter(*comes).await;
        }
        let has_all = wanted.iter().all(|node| members.voters.contains(node));
        if let Some(goes) = members.voters.iter().find(|node| !wanted.contains(node)).filter(|_| has_all) {
            if *goes == own {
                let heir = wanted.iter().find(|node| group.hears(**node) && is_near(**node));
                return match heir {
                    Some(heir) => group.hand_over(*heir).await,
                    None => Ok(()),
                };
            }
            return group.remove(*goes).await;
        }
        let is_member = |node: &&NodeId| map.node(**node).is_none();
        if let Some(gone) = members.learners.iter().find(is_member) {
            return group.remove(*gone).await;
        }
        let voters: Vec<NodeId> = members.voters.iter().copied().collect();
        if has_all && voters != map.meta {
            return self.meta.change(Change::Voters(voters)).await.map(drop);
        }
        Ok(())
    }

    /// Starts the moves whose turn it is, as far as their targets can take them.
    async fn start_moves(&self, reign: &Reign) -> Result<(), Refusal> {
        let comes_to = |m: &Move| match m.what.kind {
            Kind::Replica { add, .. } => add,
            Kind::Slots { .. } => None,
        };
        let (due, coming) = self.meta.look(|catalogue| {
            let due: Vec<Move> = catalogue.moves.due().into_iter().cloned().collect();
            let running = catalogue.moves.open().filter(|m| m.state == State::Running);
            (due, running.filter_map(comes_to).collect::<Vec<NodeId>>())
        });
        let mut coming = coming;
        for m in due {
            if let Some(node) = comes_to(&m) {
                let has_room =
                    reign.free.get(&node).is_none_or(|free| *free > m.what.bytes.saturating_mul(6) / 5);
                let note = if coming.iter().filter(|to| **to == node).count() >= COMING_MAX {
                    Some(format!("waits for other replicas that come to node {node}"))
                } else if !has_room {
                    Some(format!("waits for {} bytes of disk on node {node}", m.what.bytes))
                } else if !self.meta.group().hears(node) && node != self.peers.node() {
                    Some(format!("waits for node {node}, which does not answer"))
                } else {
                    None
                };
                if let Some(note) = note {
                    if note != m.note {
                        self.meta.change(Change::Report { id: m.id, permille: 0, note }).await?;
                    }
                    continue;
                }
                coming.push(node);
            }
            self.meta.change(Change::StartMove { id: m.id }).await?;
        }
        Ok(())
    }

    /// The limits of tenants are those that this node was told, if it was.
    async fn keep_classes(&self) -> Result<(), Refusal> {
        match &self.classes {
            Some(classes) if self.meta.look(|catalogue| catalogue.classes != *classes) => {
                self.meta.change(Change::Classes(classes.clone())).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Tells which tenants store as much as they may.
    async fn keep_full(&self, bytes: &BTreeMap<PartitionId, u64>) -> Result<(), Refusal> {
        let map = self.meta.map();
        let known = map.collections.iter().filter_map(|collection| collection.tenancy.as_ref());
        let is: BTreeSet<String> = known.filter(|t| t.is_full).map(|t| t.tenant.clone()).collect();
        let stored = by_tenant(&map, bytes).into_iter();
        let wanted =
            stored.filter(|(_, (sum, max))| sum >= max).map(|(tenant, _)| tenant.to_owned()).collect();
        if is == wanted { Ok(()) } else { self.meta.change(Change::Full(wanted)).await.map(drop) }
    }

    /// Spreads what has become large over more partitions, and says when one node is not enough.
    async fn grow(&self, reign: &mut Reign, bytes: &BTreeMap<PartitionId, u64>) -> Result<(), Refusal> {
        let advice = growth::advise(&self.meta.map(), bytes, &self.growth);
        if let Some(stored) = advice.cluster.filter(|_| !reign.is_advised) {
            reign.is_advised = true;
            tracing::warn!(stored, "this much is better kept by a cluster: see `flotilla node --help`");
        }
        for (name, partitions) in advice.grow {
            tracing::info!(collection = name, partitions, "the collection is large: it gets more partitions");
            self.mover.grow(name, partitions).await?;
        }
        Ok(())
    }

    /// Decides how many shard nodes there should be, and tells it if it is news.
    fn advise(&self, reign: &mut Reign, gathered: &Gathered) {
        let map = self.meta.map();
        let stays = |node: &NodeId| map.node(*node).is_some_and(|node| node.is_open());
        let figures = gathered.figures.iter().filter(|(node, _)| stays(node)).map(|(_, figures)| *figures);
        let held = map.partitions().map(|(_, partition)| partition.replicas.len() as u64);
        let look = Look {
            at: reign.began.elapsed(),
            members: fleet::staying(&map),
            figures: figures.collect(),
            records: gathered.records.values().fold(0, |sum, records| sum.saturating_add(*records)),
            waiting: gathered.waiting.values().fold(0, |sum, waiting| sum.saturating_add(*waiting)),
            replicas: held.sum(),
            replication: fleet::replication(&map),
            is_moving: self.meta.look(|catalogue| catalogue.moves.open().next().is_some()),
        };
        let decision = reign.autoscaler.look(&look);
        let former = self.meta.advised();
        if former.as_ref().is_some_and(|former| former.nodes != decision.nodes) {
            tracing::info!(
                nodes = decision.nodes,
                reason = decision.reason.word(),
                note = decision.note,
                "so many shard nodes are wanted"
            );
        }
        self.meta.advise(Some(decision));
    }

    /// Asks every node how it stands, now and then; a replica that does not serve is made anew.
    async fn survey(&self, reign: &mut Reign) -> Result<(), Refusal> {
        if reign.surveyed.is_some_and(|at| at.elapsed() < SURVEY_EVERY) {
            return Ok(());
        }
        reign.surveyed = Some(clock::now());
        let words = reign.stored.words();
        let gathered = facts::gather(&self.registry, &self.meta, &self.peers, &words).await;
        self.advise(reign, &gathered);
        let Gathered { facts, broken, said, stored, .. } = gathered;
        if reign.stored.look(&self.meta.map(), &facts.alive, &said, &stored) {
            // Writes of tenants wait for a word that the next look takes along.
            reign.surveyed = None;
        }
        self.keep_full(&stored).await?;
        self.grow(reign, &facts.bytes).await?;
        self.mover.keep_draining(&facts).await?;
        reign.free = facts.free;
        let map = self.meta.map();
        let mut held = BTreeSet::new();
        for (_, partition) in map.partitions() {
            let comes = partition.change.and_then(|change| change.add);
            let nodes = partition.replicas.iter().chain(&partition.learners).copied().chain(comes);
            held.extend(nodes.map(|node| (partition.id, node)));
        }
        // A learner that went to be made anew, and whose return was given up.
        let learners = map.nodes.iter().filter(|node| node.role == Role::Replica).map(|node| node.id);
        let lacking: Vec<(PartitionId, NodeId, String)> = learners
            .flat_map(|node| map.partitions().map(move |(_, partition)| (partition.id, node)))
            .filter(|lacking| !held.contains(lacking))
            .map(|(partition, node)| (partition, node, "it has no replica".to_owned()))
            .collect();
        held.extend(lacking.iter().map(|(partition, node, _)| (*partition, *node)));
        for (partition, node, why) in broken.into_iter().chain(lacking) {
            if held.contains(&(partition, node)) {
                tracing::warn!(partition = partition.0, node = node.0, why, "a replica is to be made anew");
                // One that cannot be spared must not keep the others waiting.
                if let Err(why) = self.mover.rebuild(partition, node).await {
                    tracing::warn!(partition = partition.0, node = node.0, %why, "the rebuild waits");
                }
            }
        }
        Ok(())
    }
}

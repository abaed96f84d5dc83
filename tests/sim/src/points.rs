//! Crash points of moves: in a calm cluster with a few writes under way, a replica moves to another node, or a collection grows
//! and slots move; and the power of one node is cut exactly at its N-th persist step since the move began. A persist step is a
//! sync of a file or of a folder: nothing is durable without one.
//!
//! Three things may become of what the step was to make durable ([`Keeps`]). Nobody hears of it in any case: the node says
//! nothing from that moment on. It is started again, and then everything must be as after a storm, the move must be through
//! (an operator asks for it again where it was not taken up), and nothing of it may be left over.
//!
//! Until the cut a run does what every run of its scenario does. So one without a cut tells how many steps each node makes,
//! and which nodes matter: [`sweep`] cuts all of those at all of these.

pub mod sweep;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use flotilla_node::env::sim::{Cut, Disk};
use flotilla_node::meta::plan::slot_moves;
use flotilla_node::server::Node;
use flotilla_proto::ids::{META_GROUP, NodeId, PartitionId};
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_tests::checker;
use flotilla_tests::history::Recorder;
use turmoil::Sim;

use crate::bugs::Planted;
use crate::host::Desk;
use crate::plan::Plan;
use crate::scene::{HEALS_WITHIN, PROGRESS, Scene};
use crate::storm::Storm;
use crate::witness::Witness;
use crate::work::{COLLECTION, Stage, Wish};
use crate::{bugs, net, weather};

/// The seeds of the scenarios, the first one under which the giver, the taker and the leader of the meta group are three nodes:
/// what a seed does changes with the product.
pub const SEEDS: std::ops::Range<u64> = 118..138;
/// The seed of a single point.
pub const SEED: u64 = SEEDS.start;
/// Clients work for so long before the move begins: there is something to move then, sealed and growing.
const WARMS: Duration = Duration::from_secs(2);
/// How often it is looked at how far the move is, in milliseconds.
const LOOKS_EVERY: u128 = 20;
/// How long a node is without power, at even steps and at odd ones: it is back before others take over what it led, or after.
const DOWN: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1_500)];

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The replica that leads a partition, to a node that has none
    Move,
    /// Slots of a partition, to a new one
    Slots,
}

/// What is run, but for the cut.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What moves.
    pub scenario: Scenario,
    /// Under which seed.
    pub seed: u64,
    /// With which bug.
    pub bug: Option<Planted>,
}

impl Setting {
    /// The arguments that run it, with this cut or without.
    pub fn arguments(&self, point: Option<&Point>) -> Vec<String> {
        let scenario = self.scenario.to_possible_value();
        let scenario = scenario.as_ref().map_or("", |value| value.get_name());
        let mut words = format!("--crash-points {scenario} --seed {}", self.seed);
        if let Some(bug) = self.bug {
            words += &format!(" --bug {}", bug.name());
        }
        words += &point.map_or_else(|| " --at 0".to_owned(), |point| format!(" {point}"));
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// The command that runs it.
    pub fn command(&self, point: Option<&Point>) -> String {
        format!("cargo sim {}", self.arguments(point).join(" "))
    }
}

/// What becomes of what the step was to make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Keeps {
    /// Nothing of it is there
    Nothing,
    /// Blocks and names of it, and of all else that was not synced, are there by chance
    Some,
    /// All of it is there
    All,
}

/// Where the power is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose.
    pub node: String,
    /// At which persist step since the move began, from 1.
    pub at: u64,
    /// What is left.
    pub keeps: Keeps,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeps = self.keeps.to_possible_value();
        let keeps = keeps.as_ref().map_or("", |value| value.get_name());
        write!(f, "--node {} --at {} --keeps {keeps}", self.node, self.at)
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What is wrong, if anything is.
    pub verdict: Result<checker::Tally, String>,
    /// What happened.
    pub course: Course,
    /// A number that two runs of one point share.
    pub trace: u64,
    /// Simulated time.
    pub simulated: Duration,
}

/// What happened; [`sweep`] reads it as it is printed.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// How often an operator asked for the move.
    asked: usize,
    /// From the start of the node that was cut, or from the beginning of the move, until all was well.
    healed: Duration,
    /// How long after the move's beginning the power was cut, and what was being synced.
    cut: Option<(Duration, String)>,
    /// Without a cut: what a node is to the move, its name, and its steps until the move was through.
    steps: Vec<(&'static str, String, u64)>,
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked {} healed {:.1}", self.asked, self.healed.as_secs_f64())?;
        if let Some((after, path)) = &self.cut {
            write!(f, " after {:.3} cut {path}", after.as_secs_f64())?;
        }
        self.steps.iter().try_for_each(|(role, node, steps)| write!(f, " steps {role} {node} {steps}"))
    }
}

/// Runs a scenario, with a cut or without. Once per process: much of what it sets is the process's.
pub fn run(setting: &Setting, point: Option<&Point>) -> Report {
    let Setting { scenario, seed, bug } = *setting;
    bugs::plant(bug);
    let plan = Plan::calm(seed, if scenario == Scenario::Move { 4 } else { 3 });
    let (mut scene, mut course) = (Scene::of(&plan), Course::default());
    let outcome = scene.begin().and_then(|()| {
        let Scene { sim, names, disks, desk, stage, recorder } = &mut scene;
        let storm = Storm::new(&plan, names, disks, desk, stage);
        let victim = point.map(|point| Victim::of(point, names)).transpose()?;
        let (witness, since) = (Witness::default(), (sim.elapsed(), 0));
        let (is_dark, course) = (false, &mut course);
        let play = Play {
            scenario,
            names,
            disks,
            desk,
            stage,
            recorder,
            storm,
            witness,
            victim,
            since,
            is_dark,
            course,
        };
        play.run(sim)
    });
    let verdict = scene.judge(outcome);
    Report { verdict, course, trace: scene.trace(), simulated: scene.sim.elapsed() }
}

/// The node that is cut.
#[derive(Clone, Copy)]
struct Victim<'a> {
    member: usize,
    point: &'a Point,
}

impl Victim<'_> {
    fn of<'a>(point: &'a Point, names: &[String]) -> Result<Victim<'a>, String> {
        let found = names.iter().position(|name| *name == point.node);
        let member = found.ok_or_else(|| format!("there is no {}, only {names:?}", point.node))?;
        Ok(Victim { member, point })
    }
}

/// The move that is wanted, and who has which part in it.
#[derive(Clone, Debug)]
struct Wanted {
    goal: Goal,
    giver: String,
    /// Of slots: only known once the new partition is there.
    taker: Option<String>,
    meta: String,
}

/// A run under way.
struct Play<'a> {
    scenario: Scenario,
    names: &'a [String],
    disks: &'a [Arc<Disk>],
    desk: &'a Desk,
    stage: &'a Stage,
    recorder: &'a Recorder,
    storm: Storm<'a>,
    witness: Witness,
    victim: Option<Victim<'a>>,
    /// When nothing was wrong any more, and how many calls had succeeded by then.
    since: (Duration, usize),
    /// Whether the node that was cut is still without power: one that ends by itself later is not given more time.
    is_dark: bool,
    course: &'a mut Course,
}

impl Play<'_> {
    fn run(mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        let wanted = self.warm(sim)?;
        let begun = sim.elapsed();
        tracing::info!(elapsed = ?begun, ?wanted, "the move begins");
        let before: Vec<u64> = self.syncs();
        if let Some(Victim { member, point }) = self.victim {
            self.disks[member].stop_at_sync(point.at, point.keeps == Keeps::All);
            net::silence_with(&self.names[member], &self.disks[member]);
        }
        self.since = (begun, self.acknowledged());
        self.ask(&wanted);
        loop {
            self.tick(sim, begun)?;
            if sim.elapsed().as_millis().is_multiple_of(LOOKS_EVERY) && self.is_through(&wanted) {
                break;
            }
        }
        tracing::info!(elapsed = ?sim.elapsed(), "the move is through");
        let made: Vec<u64> = self.syncs().iter().zip(before).map(|(now, before)| now - before).collect();
        match (self.victim, &self.course.cut) {
            (Some(Victim { member, point }), None) => {
                let (node, made, at) = (&point.node, made[member], point.at);
                return Err(format!(
                    "nothing was cut: the move was through after {made} steps of {node}, and this was to be at step {at}"
                ));
            }
            (None, _) => self.course.steps = self.steps(&wanted, &made)?,
            _ => {}
        }
        while !self.stage.is_done.load(Ordering::SeqCst) {
            self.tick(sim, begun)?;
            if self.acknowledged() >= self.since.1 + PROGRESS {
                self.stage.is_over.store(true, Ordering::SeqCst);
            }
        }
        self.lacks(&wanted).map_or(Ok(()), |why| Err(format!("what was through is so no more: {why}")))
    }

    /// Lets clients work until there is something to move and each group has a leader.
    fn warm(&mut self, sim: &mut Sim<'_>) -> Result<Wanted, String> {
        let start = sim.elapsed();
        loop {
            self.tick(sim, start)?;
            if sim.elapsed() - start >= WARMS {
                match self.wanted() {
                    Ok(wanted) => return Ok(wanted),
                    Err(why) => *self.stage.lacks.lock() = why,
                }
            }
        }
    }

    /// One tick; the power is cut if it is time, and comes back.
    fn tick(&mut self, sim: &mut Sim<'_>, begun: Duration) -> Result<(), String> {
        let now = sim.elapsed();
        self.storm.step(sim, now);
        weather::step(sim);
        if let Some(Victim { member, point }) = self.victim {
            let disk = &self.disks[member];
            if let Some(path) = disk.stopped_at() {
                let path = path.strip_prefix(disk.root()).unwrap_or(&path).display().to_string();
                tracing::info!(elapsed = ?now, path, "the power is cut");
                self.course.cut = Some((now - begun, path));
                let cut = if point.keeps == Keeps::Some { Cut::Torn } else { Cut::Clean };
                self.storm.cut(sim, now, member, cut, DOWN[(point.at % 2) as usize]);
                self.is_dark = true;
            }
            if self.is_dark && !self.storm.is_down(member) {
                (self.is_dark, self.since) = (false, (now, self.acknowledged()));
            }
        }
        self.witness.look(self.desk)?;
        self.course.healed = now.saturating_sub(self.since.0);
        if self.course.healed > HEALS_WITHIN && !self.is_dark {
            return Err(format!("not healed within {HEALS_WITHIN:?}: {}", self.stage.lacks.lock()));
        }
        Ok(())
    }

    /// Whether nothing is left to be done. Where the move was not taken up, it is asked for again.
    fn is_through(&mut self, wanted: &Wanted) -> bool {
        let Some(why) = self.lacks(wanted) else { return true };
        let is_idle = self.stage.wishes.lock().is_empty() && !self.stage.is_planning.load(Ordering::SeqCst);
        let nodes = self.desk.running();
        let is_open = nodes.iter().any(|(_, _, node)| node.moves().iter().any(|m| !m.has_ended()));
        let is_reached = newest(&nodes).is_some_and(|map| reached(&wanted.goal, &map));
        if is_idle && !is_open && !is_reached {
            tracing::info!(why, "the move is asked for again");
            self.ask(wanted);
        }
        *self.stage.lacks.lock() = why;
        false
    }

    fn ask(&mut self, wanted: &Wanted) {
        self.stage.wishes.lock().push(Wish::Plan(wanted.goal.clone()));
        self.course.asked += 1;
    }

    /// What is not yet as it is wanted, or not at rest.
    fn lacks(&self, wanted: &Wanted) -> Option<String> {
        let nodes = self.desk.running();
        let Some(map) = newest(&nodes).filter(|_| nodes.len() == self.names.len()) else {
            return Some(format!("only {} nodes are running", nodes.len()));
        };
        if !reached(&wanted.goal, &map) {
            return Some("the map is not as it is wanted".to_owned());
        }
        nodes
            .iter()
            .find_map(|(name, _, node)| self.unsettled(name, node, &map).map(|why| format!("{name}: {why}")))
    }

    fn unsettled(&self, name: &str, node: &Node, map: &PlacementMap) -> Option<String> {
        if node.map().epoch != map.epoch {
            return Some(format!("knows the map of epoch {} and not {}", node.map().epoch, map.epoch));
        }
        if let Some(open) = node.moves().iter().find(|m| !m.has_ended()) {
            return Some(format!("move {} is {:?}: {}", open.id, open.state, open.note));
        }
        if let Some(why) = node.unsettled().into_iter().next() {
            return Some(why);
        }
        let member = self.names.iter().position(|other| other == name)?;
        let folder = node.data_dir().join("partitions");
        let is_held = |path: &Path| {
            let named = path.strip_prefix(&folder).ok().and_then(|inside| inside.iter().next());
            let Some(named) = named.and_then(|name| name.to_str()) else { return true };
            let partition = named.parse().ok().and_then(|id| map.partition(PartitionId(id)));
            partition.is_some_and(|(_, partition)| partition.holders().any(|holder| holder == node.id()))
        };
        let left = self.disks[member].files().into_iter().find(|path| !is_held(path));
        left.map(|path| format!("{} is left over", path.display()))
    }

    /// The move, if everything that it needs is there.
    fn wanted(&self) -> Result<Wanted, String> {
        let nodes = self.desk.running();
        let map = newest(&nodes).ok_or("no node is running")?;
        let collection = map.collection(COLLECTION).ok_or("the collection is gone")?;
        let partition = collection.partitions.first().ok_or("there is no partition")?;
        let (giver, from) = leader(&nodes, partition.id)?;
        let (meta, _) = leader(&nodes, META_GROUP)?;
        if self.scenario == Scenario::Slots {
            let goal = Goal::Grow(v1::Grow { collection: COLLECTION.to_owned(), partitions: 2 });
            return Ok(Wanted { goal, giver, taker: None, meta });
        }
        let spare = nodes.iter().find(|(_, _, node)| !partition.replicas.contains(&node.id()));
        let (taker, _, to) = spare.ok_or("each node has a replica")?;
        let goal = v1::MoveReplica { partition: partition.id.0, from: from.0, to: to.id().0 };
        Ok(Wanted { goal: Goal::MoveReplica(goal), giver, taker: Some(taker.clone()), meta })
    }

    /// How many steps each made that has a part in the move.
    fn steps(&self, wanted: &Wanted, made: &[u64]) -> Result<Vec<(&'static str, String, u64)>, String> {
        let taker = match &wanted.taker {
            Some(taker) => taker.clone(),
            None => {
                let nodes = self.desk.running();
                let map = newest(&nodes).ok_or("no node is running")?;
                let new = map.collection(COLLECTION).and_then(|collection| collection.partitions.get(1));
                leader(&nodes, new.ok_or("there is no new partition")?.id)?.0
            }
        };
        let parts = [("giver", &wanted.giver), ("taker", &taker), ("meta", &wanted.meta)];
        let steps = |(part, name): (&'static str, &String)| {
            let member = self.names.iter().position(|other| other == name)?;
            Some((part, name.clone(), made[member]))
        };
        Ok(parts.into_iter().filter_map(steps).collect())
    }

    fn syncs(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.counts().syncs).collect()
    }

    fn acknowledged(&self) -> usize {
        self.recorder.note(|history| history.acknowledged())
    }
}

/// Running nodes, as the desk knows them.
type Nodes = [(String, u64, Arc<Node>)];

fn newest(nodes: &Nodes) -> Option<Arc<PlacementMap>> {
    nodes.iter().map(|(_, _, node)| node.map()).max_by_key(|map| map.epoch)
}

/// The node that is sure to lead a group.
fn leader(nodes: &Nodes, group: PartitionId) -> Result<(String, NodeId), String> {
    let leads = nodes.iter().find(|(_, _, node)| node.sure_to_lead().contains(&group));
    leads
        .map(|(name, _, node)| (name.clone(), node.id()))
        .ok_or_else(|| format!("nobody is sure to lead group {group}"))
}

/// Whether the map is as the move is to leave it.
fn reached(goal: &Goal, map: &PlacementMap) -> bool {
    match goal {
        Goal::MoveReplica(v1::MoveReplica { partition, from, to }) => {
            map.partition(PartitionId(*partition)).is_some_and(|(_, partition)| {
                let holds = |node: u64| partition.replicas.contains(&NodeId(node));
                partition.change.is_none() && holds(*to) && !holds(*from)
            })
        }
        Goal::Grow(v1::Grow { collection, partitions }) => {
            map.collection(collection).is_some_and(|collection| {
                collection.partitions.len() == *partitions as usize
                    && collection.slot_move.is_none()
                    && slot_moves(collection).is_empty()
            })
        }
        _ => false,
    }
}

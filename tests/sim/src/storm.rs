//! The storm: faults happen at their times, last, and are undone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_node::env::sim::{Cut, Disk, Rates};
use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use turmoil::Sim;

use crate::host::Desk;
use crate::plan::{Fault, Kind, LEAST_NODES, Plan, SKEW, SKEWS};
use crate::weather::Weather;
use crate::work::{COLLECTION, GROUP_PARTITIONS, GROUPS, Stage, Wish};
use crate::{net, weather};

/// A process that ended is started again after this.
const RESTART: Duration = Duration::from_millis(300);
/// A process that is to be killed while it recovers gets this far.
const RECOVERS: std::ops::Range<u64> = 1..80;

/// What is to be undone, and when.
#[derive(Clone, Debug)]
enum Undo {
    Start(usize),
    KillAgain(usize),
    Repair(usize, usize),
    RepairOneWay(usize, usize),
    Release(usize, usize),
    Calm(usize),
    Disk(usize),
    Sync(usize),
}

/// The storm over a cluster.
pub struct Storm<'a> {
    plan: &'a Plan,
    members: &'a [String],
    disks: &'a [Arc<Disk>],
    desk: &'a Desk,
    stage: &'a Stage,
    next: usize,
    undo: Vec<(Duration, Undo)>,
    is_down: Vec<bool>,
    /// Errors that each disk had made when its process began: a log that met one takes no more writes until the process
    /// starts again.
    errors: Vec<u64>,
    /// The member whose disk is bad: more than one copy of a partition must not be damaged in one run, nobody could mend that.
    bad_disk: Option<usize>,
    is_rotten: bool,
    draw: SmallRng,
    fired: BTreeMap<Kind, u64>,
}

impl<'a> Storm<'a> {
    /// Nothing has happened yet.
    pub fn new(
        plan: &'a Plan,
        members: &'a [String],
        disks: &'a [Arc<Disk>],
        desk: &'a Desk,
        stage: &'a Stage,
    ) -> Storm<'a> {
        Storm {
            plan,
            members,
            disks,
            desk,
            stage,
            next: 0,
            undo: Vec::new(),
            is_down: vec![false; members.len()],
            errors: vec![0; members.len()],
            bad_disk: None,
            is_rotten: false,
            draw: SmallRng::seed_from_u64(plan.seed ^ 0x0057_0237),
            fired: BTreeMap::new(),
        }
    }

    /// How often each kind fired.
    pub fn fired(&self) -> &BTreeMap<Kind, u64> {
        &self.fired
    }

    /// What is due, so long after the storm began.
    pub fn step(&mut self, sim: &mut Sim<'_>, now: Duration) {
        self.revive(now);
        while let Some(at) = self.undo.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.undo.swap_remove(at);
            self.take_back(sim, now, undo);
        }
        while let Some(fault) = self.plan.faults.get(self.next).filter(|fault| fault.at <= now).copied() {
            self.next += 1;
            self.strike(sim, now, fault);
        }
    }

    /// A process that ended by itself is started again, as an operator's supervisor would.
    fn revive(&mut self, now: Duration) {
        for (name, _) in self.desk.ended() {
            if let Some(at) = self.members.iter().position(|member| *member == name) {
                self.is_down[at] = true;
                self.undo.push((now + RESTART, Undo::Start(at)));
            }
        }
    }

    /// Ends everything that lasts, and starts what is down or hurt.
    pub fn calm(&mut self, sim: &mut Sim<'_>, now: Duration) {
        for (_, undo) in std::mem::take(&mut self.undo) {
            let undo = if let Undo::KillAgain(at) = undo { Undo::Start(at) } else { undo };
            self.take_back(sim, now, undo);
        }
        for at in 0..self.members.len() {
            self.disks[at].set_rates(Rates::default());
            self.disks[at].leave_free(None);
            if self.is_hurt(at) && !self.is_down[at] {
                self.end(sim, at, None);
            }
            if self.is_down[at] {
                self.start(sim, at);
            }
        }
        self.undo.clear();
        weather::change(|weather| *weather = Weather::default());
    }

    /// Cuts a member's power, and has it start again after so long.
    pub fn cut(&mut self, sim: &mut Sim<'_>, now: Duration, at: usize, cut: Cut, lasts: Duration) {
        self.end(sim, at, Some(cut));
        // How its process ended in its last moment is of no interest: it is started once.
        drop(self.desk.ended());
        self.undo.push((now + lasts, Undo::Start(at)));
    }

    /// Whether a member is not running.
    pub fn is_down(&self, at: usize) -> bool {
        self.is_down[at]
    }

    fn end(&mut self, sim: &mut Sim<'_>, at: usize, cut: Option<Cut>) {
        match cut {
            None => self.disks[at].kill(),
            Some(cut) => self.disks[at].cut(cut),
        }
        sim.crash(self.members[at].as_str());
        self.is_down[at] = true;
    }

    /// Errors that a member's disk has made, and bits that flipped for good.
    fn met(&self, at: usize) -> u64 {
        let counts = self.disks[at].counts();
        counts.write_errors
            + counts.read_errors
            + counts.read_flips
            + u64::from(self.is_rotten && self.bad_disk == Some(at))
    }

    fn is_hurt(&self, at: usize) -> bool {
        self.met(at) > self.errors[at]
    }

    fn start(&mut self, sim: &mut Sim<'_>, at: usize) {
        if std::mem::take(&mut self.is_down[at]) {
            self.errors[at] = self.met(at);
            net::reset(&self.members[at], None);
            sim.bounce(self.members[at].as_str());
        }
    }

    /// Another member than this one.
    fn other(&self, at: usize, whom: usize) -> usize {
        (at + 1 + whom / 7 % (self.members.len() - 1)) % self.members.len()
    }

    fn strike(&mut self, sim: &mut Sim<'_>, now: Duration, fault: Fault) {
        let Fault { kind, lasts, whom, .. } = fault;
        let count = self.members.len();
        let at = whom % count;
        let until = now + lasts;
        let other = self.other(at, whom);
        let mut fires = true;
        match kind {
            Kind::Kill | Kind::KillAgain | Kind::PowerCut | Kind::TornCut if self.is_down[at] => {
                fires = false
            }
            Kind::Kill => {
                self.end(sim, at, None);
                self.undo.push((until, Undo::Start(at)));
            }
            Kind::KillAgain => {
                self.end(sim, at, None);
                self.undo.push((now + RESTART, Undo::KillAgain(at)));
            }
            Kind::PowerCut | Kind::TornCut => {
                let cut = if kind == Kind::PowerCut { Cut::Clean } else { Cut::Torn };
                self.end(sim, at, Some(cut));
                self.undo.push((until, Undo::Start(at)));
            }
            Kind::Blackout => {
                for at in 0..count {
                    let cut = if whom & (1 << at) == 0 { Cut::Clean } else { Cut::Torn };
                    self.end(sim, at, Some(cut));
                    let later = Duration::from_millis(self.draw.random_range(0..500));
                    self.undo.push((now + RESTART + later, Undo::Start(at)));
                }
            }
            Kind::Pause => {
                for other in (0..count).filter(|other| *other != at) {
                    self.hold(sim, at, other, until);
                }
            }
            Kind::Hold => self.hold(sim, at, other, until),
            Kind::Isolate => {
                for other in (0..count).filter(|other| *other != at) {
                    self.cut_off(sim, at, other, until);
                }
            }
            Kind::Split => {
                let is_left = |at: usize| whom >> at & 1 == 0;
                for a in 0..count {
                    for b in (a + 1..count).filter(|b| is_left(a) != is_left(*b)) {
                        self.cut_off(sim, a, b, until);
                    }
                }
            }
            Kind::OneWay => {
                sim.partition_oneway(self.members[at].as_str(), self.members[other].as_str());
                self.undo.push((until, Undo::RepairOneWay(at, other)));
            }
            Kind::Latency => {
                for other in (0..count).filter(|other| *other != at) {
                    let span = Duration::from_millis(20 + whom as u64 % 200);
                    sim.set_link_max_message_latency(
                        self.members[at].as_str(),
                        self.members[other].as_str(),
                        span,
                    );
                }
                self.undo.push((until, Undo::Calm(at)));
            }
            Kind::Reset => fires = net::reset(&self.members[at], None) > 0,
            Kind::WriteErrors | Kind::ReadErrors | Kind::ReadFlips => {
                let at = *self.bad_disk.get_or_insert(at);
                let rate = [2_000, 20_000, 100_000][whom % 3];
                let mut rates = Rates::default();
                match kind {
                    Kind::WriteErrors => rates.write_errors = rate,
                    Kind::ReadErrors => rates.read_errors = rate,
                    _ => rates.read_flips = rate,
                }
                self.disks[at].set_rates(rates);
                self.undo.push((until, Undo::Disk(at)));
            }
            Kind::Full => {
                self.disks[at].leave_free(Some(whom as u64 % 20_000));
                self.undo.push((until, Undo::Disk(at)));
            }
            Kind::Rot => fires = self.rot(sim, at, whom, until),
            Kind::SlowDisk => {
                let span = Duration::from_millis(20 + whom as u64 % 400);
                weather::change(|weather| {
                    let _ = weather.sync.insert(self.members[at].clone(), span);
                });
                self.undo.push((until, Undo::Sync(at)));
            }
            Kind::Skew => {
                let times = (whom % (2 * SKEWS as usize + 1)) as i64 - i64::from(SKEWS);
                weather::change(|weather| {
                    let _ = weather.skew.insert(self.members[at].clone(), times * SKEW.as_millis() as i64);
                });
            }
            Kind::Transfer => self.desk.step_aside(&self.members[at]),
            Kind::Move => fires = self.move_replica(at, whom),
            Kind::Grow => {
                let (collection, partitions) = match self.plan.has_groups && whom % 4 < 2 {
                    true => (GROUPS, GROUP_PARTITIONS),
                    false => (COLLECTION, self.plan.partitions),
                };
                let partitions = partitions + 1 + (whom % 2) as u32;
                let grow = v1::Grow { collection: collection.into(), partitions };
                self.stage.wishes.lock().push(Wish::Plan(Goal::Grow(grow)));
            }
            Kind::Scale => {
                fires = self.plan.nodes > LEAST_NODES as usize;
                if fires {
                    let to = (whom % 4 > 0).then_some(LEAST_NODES + (whom / 4) as u32 % 2);
                    self.stage.wishes.lock().push(Wish::Scale(to));
                }
            }
        }
        tracing::info!(
            ?kind,
            member = self.members[at],
            other = self.members[other],
            fires,
            ?lasts,
            "strikes"
        );
        *self.fired.entry(kind).or_default() += u64::from(fires);
    }

    fn take_back(&mut self, sim: &mut Sim<'_>, now: Duration, undo: Undo) {
        tracing::info!(?undo, "ends");
        let name = |at: usize| self.members[at].as_str();
        match undo {
            Undo::Start(at) => self.start(sim, at),
            Undo::KillAgain(at) => {
                self.start(sim, at);
                let recovers = Duration::from_millis(self.draw.random_range(RECOVERS));
                for _ in 0..recovers.as_millis() {
                    weather::step(sim);
                }
                self.end(sim, at, None);
                self.undo.push((now + RESTART, Undo::Start(at)));
            }
            Undo::Repair(a, b) => {
                sim.repair(name(a), name(b));
                net::reset(name(a), Some(name(b)));
            }
            Undo::RepairOneWay(a, b) => {
                sim.repair_oneway(name(a), name(b));
                net::reset(name(a), Some(name(b)));
            }
            Undo::Release(a, b) => sim.release(name(a), name(b)),
            Undo::Calm(at) => {
                for other in (0..self.members.len()).filter(|other| *other != at) {
                    sim.set_link_max_message_latency(name(at), name(other), self.plan.latency);
                }
            }
            Undo::Disk(at) => {
                self.disks[at].set_rates(Rates::default());
                self.disks[at].leave_free(None);
            }
            Undo::Sync(at) => weather::change(|weather| {
                let _ = weather.sync.remove(name(at));
            }),
        }
    }

    fn hold(&mut self, sim: &Sim<'_>, a: usize, b: usize, until: Duration) {
        sim.hold(self.members[a].as_str(), self.members[b].as_str());
        self.undo.push((until, Undo::Release(a, b)));
    }

    fn cut_off(&mut self, sim: &Sim<'_>, a: usize, b: usize, until: Duration) {
        sim.partition(self.members[a].as_str(), self.members[b].as_str());
        self.undo.push((until, Undo::Repair(a, b)));
    }

    /// A bit of one file flips, of the log or of a partition's state, and the process starts again and finds it. The lane that
    /// holds the meta group's log is left alone: a node whose copy of that is damaged refuses to start and says why, and an
    /// operator replaces it.
    fn rot(&mut self, sim: &mut Sim<'_>, at: usize, whom: usize, until: Duration) -> bool {
        let at = *self.bad_disk.get_or_insert(at);
        let files = self.disks[at].files();
        let of = |part: &str| {
            files.iter().filter(|path| path.to_string_lossy().contains(part)).cloned().collect::<Vec<_>>()
        };
        let part =
            if whom % 4 < 2 { of("log/lane-1/").pop().into_iter().collect() } else { of("partitions/") };
        let Some(found) = self.disks[at].rot(|path| part.iter().any(|meant| meant == path)) else {
            return false;
        };
        tracing::info!(?found, "a bit flips");
        self.is_rotten = true;
        if !self.is_down[at] {
            self.end(sim, at, None);
            self.undo.push((until, Undo::Start(at)));
        }
        true
    }

    fn move_replica(&mut self, at: usize, whom: usize) -> bool {
        let ready = self.desk.ready();
        let numbers: Vec<u64> =
            self.members.iter().take(self.plan.nodes).filter_map(|name| ready.get(name).copied()).collect();
        let Some(from) = ready.get(&self.members[at % self.plan.nodes]).copied() else { return false };
        let goal = match (self.plan.nodes > 3, whom % 3) {
            (true, _) => {
                let Some(to) = numbers.iter().copied().find(|to| *to != from) else { return false };
                let partition = 1 + (whom / 3) as u64 % u64::from(self.plan.partitions);
                Goal::MoveReplica(v1::MoveReplica { partition, from, to })
            }
            (false, _) => Goal::Rebalance(v1::Rebalance {}),
        };
        self.stage.wishes.lock().push(Wish::Plan(goal));
        true
    }
}

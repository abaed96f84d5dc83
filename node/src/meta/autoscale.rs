//! How many shard nodes there should be: decided from what the nodes tell of themselves, by the leader of the meta group.
//!
//! Pure: what is seen goes in, the clock's hands included, and a [`Decision`] comes out. Nobody here starts or stops a node; the
//! figure is published, and whoever has nodes to give follows it.
//!
//! - **More** when memory, disk or processors would be too full on each of so many nodes, when what a lost node held would not fit on
//!   the others, when a node would hold too many replicas, when searches are slow or reads queue; and never fewer than replicas of
//!   one partition. Lasting minutes ([`Options::up_after`]), then as many as it takes at once.
//! - **Fewer**, by one, when processors idle and nothing above would be so with one fewer, even if one of those were lost; only
//!   while no node is silent, nothing moves and nothing is loaded in bulk. Lasting tens of minutes ([`Options::down_after`]).
//! - **A bulk load** says nothing of the load to come: processors, latency and queues are not looked at while it lasts. What it
//!   leaves in memory and on disk stays, and counts.
//!
//! Sums over the cluster are spread evenly in thought: that one node is fuller than another is the rebalancer's concern, and more
//! nodes would not help it. What is remembered is lost with the leadership: then the times begin anew, which is never hasty.

#[cfg(test)]
mod tests;

use std::time::Duration;

use flotilla_proto::limits::NODES_MAX;

/// When to want more nodes, or fewer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How long too much must last until more nodes are wanted (default 3 min).
    pub up_after: Duration,
    /// How long too little must last until fewer are (default 30 min).
    pub down_after: Duration,
    /// Share of the processors above which more are wanted (default 0.7).
    pub cpu_up: f64,
    /// Share of the processors below which fewer are (default 0.3).
    pub cpu_down: f64,
    /// Share of the memory above which more are wanted (default 0.8).
    pub memory_up: f64,
    /// Share of the disks above which more are wanted (default 0.8).
    pub disk_up: f64,
    /// Share of memory and disks that may be used once a node is lost (default 0.9).
    pub fit: f64,
    /// How long the slowest searches but one of a hundred may take on a node (default 50 ms).
    pub p99: Duration,
    /// Reads that may wait on a node (default 100).
    pub queue: u64,
    /// Records that the cluster gains per second in a bulk load (default 5,000).
    pub bulk_per_second: u64,
    /// Voting replicas that a node may hold (default 64).
    pub replicas_max: u64,
    /// Nodes, at least (default 1).
    pub nodes_min: u32,
    /// Nodes, at most (default 100).
    pub nodes_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            up_after: Duration::from_secs(180),
            down_after: Duration::from_secs(1_800),
            cpu_up: 0.7,
            cpu_down: 0.3,
            memory_up: 0.8,
            disk_up: 0.8,
            fit: 0.9,
            p99: Duration::from_millis(50),
            queue: 100,
            bulk_per_second: 5_000,
            replicas_max: 64,
            nodes_min: 1,
            nodes_max: 100,
        }
    }
}

/// What a shard node tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Bytes of memory used.
    pub memory_used: u64,
    /// Bytes of memory that may be; 0: not known.
    pub memory_limit: u64,
    /// Bytes used of its disk.
    pub disk_used: u64,
    /// Bytes of its disk; 0: not known.
    pub disk_whole: u64,
    /// Processors kept busy.
    pub cpu_used: f64,
    /// Processors that may be; 0: not known.
    pub cpus: f64,
    /// How long all but one of a hundred searches took lately; none: there were none.
    pub p99: Option<Duration>,
    /// Reads that wait.
    pub queued: u64,
}

/// What is seen of the cluster at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// When, since any moment that stays the same.
    pub at: Duration,
    /// Shard nodes that are members and are to stay.
    pub members: u32,
    /// Of those that answered.
    pub figures: Vec<Figures>,
    /// Records of all partitions, each counted once.
    pub records: u64,
    /// Vectors that no index covers yet and that one is to be built over.
    pub waiting: u64,
    /// Voting replicas of all partitions.
    pub replicas: u64,
    /// Replicas of one partition, at most.
    pub replication: u32,
    /// Whether replicas or slots move, or are made anew.
    pub is_moving: bool,
}

/// Why so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There are so many, and nothing speaks against it.
    Members,
    /// The memory would be too full with fewer.
    Memory,
    /// The disks would be.
    Disk,
    /// The processors would be too busy.
    Cpu,
    /// Searches are slow.
    Latency,
    /// Reads wait.
    Queue,
    /// Replicas need nodes of their own.
    Replicas,
    /// So many are configured, at least.
    Least,
    /// There is too little to do for more.
    Calm,
}

/// Why there may not be fewer now, whatever else is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Records are loaded in bulk, or their index is still built.
    Bulk,
    /// Replicas or slots move.
    Moves,
    /// A node is silent: it comes back, or is replaced.
    Silent,
}

/// How many shard nodes there should be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How many.
    pub nodes: u32,
    /// Why, in a word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub note: String,
    /// What keeps it from going down.
    pub hold: Option<Hold>,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 9] = [
        Reason::Members,
        Reason::Memory,
        Reason::Disk,
        Reason::Cpu,
        Reason::Latency,
        Reason::Queue,
        Reason::Replicas,
        Reason::Least,
        Reason::Calm,
    ];

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Members => "members",
            Reason::Memory => "memory",
            Reason::Disk => "disk",
            Reason::Cpu => "cpu",
            Reason::Latency => "p99",
            Reason::Queue => "queue",
            Reason::Replicas => "replicas",
            Reason::Least => "least",
            Reason::Calm => "calm",
        }
    }
}

impl Hold {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Hold::Bulk => "bulk",
            Hold::Moves => "moves",
            Hold::Silent => "silent",
        }
    }
}

/// What one so many nodes lack.
type Lack = (Reason, String);

/// Decides again and again: see the module.
#[derive(Debug)]
pub struct Autoscaler {
    options: Options,
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    at: Duration,
    members: u32,
    records: u64,
    decision: Decision,
    /// Since when more are needed, and how many at least all that time.
    above: Option<(Duration, u32)>,
    /// Since when fewer would do.
    below: Option<Duration>,
}

impl Autoscaler {
    /// Which has seen nothing yet.
    pub fn new(options: Options) -> Autoscaler {
        Autoscaler { options, memory: None }
    }

    /// Takes what is seen now; tells what holds from now on.
    pub fn look(&mut self, look: &Look) -> Decision {
        let mut memory = self.memory.take().unwrap_or_else(|| Memory::of(look));
        memory.follow(look, self.options.up_after);
        let is_bulk = memory.is_bulk(look, &self.options);
        let seen = Seen { look, options: &self.options, is_bulk };
        memory.decision.hold = seen.hold();
        memory.go_up(&seen);
        memory.go_down(&seen);
        (memory.at, memory.records) = (look.at, look.records);
        let decision = memory.decision.clone();
        self.memory = Some(memory);
        decision
    }
}

impl Memory {
    fn of(look: &Look) -> Memory {
        let (at, members, records) = (look.at, look.members, look.records);
        Memory { at, members, records, decision: as_many(members), above: None, below: None }
    }

    /// Nodes that came or went otherwise than was wanted are taken as they are; what was seen too long ago says nothing.
    fn follow(&mut self, look: &Look, gap_max: Duration) {
        let (was, is, wanted) = (self.members, look.members, self.decision.nodes);
        let is_on_the_way = (was < is && is <= wanted) || (was > is && is >= wanted);
        if was != is && !is_on_the_way {
            self.decision = as_many(is);
            (self.above, self.below) = (None, None);
        }
        if look.at.saturating_sub(self.at) > gap_max {
            (self.above, self.below) = (None, None);
        }
        self.members = is;
    }

    fn is_bulk(&self, look: &Look, options: &Options) -> bool {
        let span = look.at.saturating_sub(self.at).as_secs_f64();
        let gained = look.records.saturating_sub(self.records) as f64;
        let rate = if span > 0.0 { gained / span } else { 0.0 };
        let rest = options.bulk_per_second.saturating_mul(60);
        rate >= options.bulk_per_second as f64 || look.waiting >= rest
    }

    fn go_up(&mut self, seen: &Seen<'_>) {
        let needed = seen.needed(self.decision.nodes);
        if needed <= self.decision.nodes {
            self.above = None;
            return;
        }
        let (since, least) = self.above.unwrap_or((seen.look.at, needed));
        let least = least.min(needed);
        self.above = Some((since, least));
        let lack = seen.lack(self.decision.nodes).or_else(|| seen.strain());
        if let Some((reason, note)) = lack
            && seen.look.at.saturating_sub(since) >= seen.options.up_after
        {
            self.decide(least, reason, note);
        }
    }

    fn go_down(&mut self, seen: &Seen<'_>) {
        let fewer = self.decision.nodes.saturating_sub(1);
        let Some(note) = seen.spare(fewer).filter(|_| self.decision.nodes >= self.members) else {
            self.below = None;
            return;
        };
        let since = *self.below.get_or_insert(seen.look.at);
        if seen.look.at.saturating_sub(since) >= seen.options.down_after {
            self.decide(fewer, Reason::Calm, note);
        }
    }

    fn decide(&mut self, nodes: u32, reason: Reason, note: String) {
        let hold = self.decision.hold;
        self.decision = Decision { nodes, reason, note, hold };
        (self.above, self.below) = (None, None);
    }
}

fn as_many(members: u32) -> Decision {
    let note = format!("{members} shard nodes are members");
    Decision { nodes: members, reason: Reason::Members, note, hold: None }
}

/// What is seen, and by what it is judged.
struct Seen<'a> {
    look: &'a Look,
    options: &'a Options,
    is_bulk: bool,
}

impl Seen<'_> {
    fn hold(&self) -> Option<Hold> {
        if self.is_bulk {
            return Some(Hold::Bulk);
        }
        if self.look.is_moving {
            return Some(Hold::Moves);
        }
        ((self.look.figures.len() as u64) < u64::from(self.look.members)).then_some(Hold::Silent)
    }

    fn nodes_max(&self) -> u32 {
        self.options.nodes_max.min(u32::try_from(NODES_MAX).unwrap_or(u32::MAX))
    }

    /// How many it takes: at most one more than there are for what cannot be foreseen.
    fn needed(&self, wanted: u32) -> u32 {
        let enough = (wanted..=self.nodes_max()).find(|nodes| self.lack(*nodes).is_none());
        let enough = enough.unwrap_or(self.nodes_max()).max(wanted);
        let strained = self.strain().map_or(0, |_| self.look.members.saturating_add(1).min(self.nodes_max()));
        enough.max(strained)
    }

    /// What would be wrong with so many nodes.
    fn lack(&self, nodes: u32) -> Option<Lack> {
        let Options { memory_up, disk_up, cpu_up, nodes_min, replicas_max, .. } = *self.options;
        if nodes < nodes_min.min(self.nodes_max()) {
            return Some((Reason::Least, format!("autoscale.nodes_min is {nodes_min}")));
        }
        if nodes < self.look.replication.max(1) {
            let note =
                format!("a partition has {} replicas, each on a node of its own", self.look.replication);
            return Some((Reason::Replicas, note));
        }
        if self.look.replicas > u64::from(nodes).saturating_mul(replicas_max) {
            let each = self.look.replicas.div_ceil(u64::from(nodes.max(1)));
            return Some((
                Reason::Replicas,
                format!("{each} replicas on each of {nodes} nodes, above {replicas_max}"),
            ));
        }
        let lacks = self
            .too_full(Reason::Memory, memory_up, nodes)
            .or_else(|| self.too_full(Reason::Disk, disk_up, nodes));
        lacks.or_else(|| {
            let share = self.share(Reason::Cpu, nodes).filter(|share| *share > cpu_up && !self.is_bulk)?;
            Some((
                Reason::Cpu,
                format!("processors {} busy on {nodes} nodes, above {}", percent(share), percent(cpu_up)),
            ))
        })
    }

    fn too_full(&self, what: Reason, up: f64, nodes: u32) -> Option<Lack> {
        let share = self.share(what, nodes)?;
        let word = what.word();
        if share > up {
            return Some((
                what,
                format!("{word} {} full on {nodes} nodes, above {}", percent(share), percent(up)),
            ));
        }
        // With fewer nodes than replicas nothing is made anew elsewhere when one is lost.
        let left = nodes.saturating_sub(1);
        let share = self.share(what, left).filter(|_| left >= self.look.replication.max(1))?;
        let fit = self.options.fit;
        (share > fit).then(|| {
            let note = format!(
                "{word} {} full if one of {nodes} nodes were lost, above {}",
                percent(share),
                percent(fit)
            );
            (what, note)
        })
    }

    /// What is wrong and cannot be foreseen for another number of nodes.
    fn strain(&self) -> Option<Lack> {
        if self.is_bulk {
            return None;
        }
        let p99 = self.p99();
        if p99 > self.options.p99 {
            let note =
                format!("p99 of searches {} ms, above {} ms", p99.as_millis(), self.options.p99.as_millis());
            return Some((Reason::Latency, note));
        }
        let queued = self.queued();
        (queued > self.options.queue)
            .then(|| (Reason::Queue, format!("{queued} reads wait on a node, above {}", self.options.queue)))
    }

    /// Why so many, which are fewer than wanted now, would do; none: they would not.
    fn spare(&self, nodes: u32) -> Option<String> {
        let Options { cpu_up, cpu_down, p99, queue, .. } = *self.options;
        if nodes == 0 || self.hold().is_some() || self.lack(nodes).is_some() {
            return None;
        }
        let share = self.share(Reason::Cpu, nodes.saturating_add(1))?;
        let lost = if nodes > 1 { self.share(Reason::Cpu, nodes - 1)? } else { 0.0 };
        let is_calm =
            share < cpu_down && lost <= cpu_up && self.p99() <= p99 / 2 && self.queued() <= queue / 2;
        is_calm.then(|| {
            format!("processors {} busy on {} nodes, below {}", percent(share), nodes + 1, percent(cpu_down))
        })
    }

    fn p99(&self) -> Duration {
        self.look.figures.iter().filter_map(|node| node.p99).max().unwrap_or_default()
    }

    fn queued(&self) -> u64 {
        self.look.figures.iter().map(|node| node.queued).max().unwrap_or(0)
    }

    /// What is used of a resource, of what so many nodes like these have; none: that is not known.
    fn share(&self, what: Reason, nodes: u32) -> Option<f64> {
        let of = |node: &Figures| match what {
            Reason::Memory => (node.memory_used as f64, node.memory_limit as f64),
            Reason::Disk => (node.disk_used as f64, node.disk_whole as f64),
            _ => (node.cpu_used, node.cpus),
        };
        let known = self.look.figures.iter().map(of).filter(|(_, whole)| *whole > 0.0);
        let (used, whole) = known.fold((0.0, 0.0), |sum, node| (sum.0 + node.0, sum.1 + node.1));
        let each = whole / self.look.figures.len().max(1) as f64;
        (whole > 0.0 && nodes > 0).then(|| used / (each * f64::from(nodes)))
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

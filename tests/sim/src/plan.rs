//! What a seed stands for: a cluster, its settings, what clients do, and every fault with its time. Each seed draws its own
//! subset of faults and their rates (A. Groce et al., "Swarm Testing", ISSTA 2012): a run with everything at once hides what
//! only a run without some of it shows.

use std::time::Duration;

use flotilla_node::server::Options;
use flotilla_node::worker::slots::Pace;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

/// A kind of fault, or of an operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A member's process ends at once (kill -9) and starts again.
    Kill,
    /// It ends once more while it recovers.
    KillAgain,
    /// A member loses its power: nothing that was not synced survives.
    PowerCut,
    /// A member loses its power, and blocks and names that were not synced survive by chance.
    TornCut,
    /// All members lose their power at once.
    Blackout,
    /// A member hears and says nothing for a while, and nothing is lost (SIGSTOP).
    Pause,
    /// A member is cut off from all others.
    Isolate,
    /// The members fall into two sets.
    Split,
    /// What one member says does not reach another; the other direction works.
    OneWay,
    /// What two members say to each other is held back, and then comes at once.
    Hold,
    /// A member's links are slow.
    Latency,
    /// A member's connections break.
    Reset,
    /// Writes and syncs fail by chance.
    WriteErrors,
    /// Reads fail by chance.
    ReadErrors,
    /// Reads return wrong bits by chance.
    ReadFlips,
    /// The disk is full.
    Full,
    /// A bit of a file flips for good.
    Rot,
    /// Syncs take long.
    SlowDisk,
    /// A member's wall clock jumps.
    Skew,
    /// Leaders hand over.
    Transfer,
    /// A replica moves to another node.
    Move,
    /// The collection gets more partitions: slots move.
    Grow,
    /// The last nodes of five are drained, or not to be drained after all.
    Scale,
}

/// All kinds.
pub const KINDS: [Kind; 23] = [
    Kind::Kill,
    Kind::KillAgain,
    Kind::PowerCut,
    Kind::TornCut,
    Kind::Blackout,
    Kind::Pause,
    Kind::Isolate,
    Kind::Split,
    Kind::OneWay,
    Kind::Hold,
    Kind::Latency,
    Kind::Reset,
    Kind::WriteErrors,
    Kind::ReadErrors,
    Kind::ReadFlips,
    Kind::Full,
    Kind::Rot,
    Kind::SlowDisk,
    Kind::Skew,
    Kind::Transfer,
    Kind::Move,
    Kind::Grow,
    Kind::Scale,
];

/// Shard nodes that stay, whatever is scaled.
pub const LEAST_NODES: u32 = 3;

/// A wall clock jumps by a multiple of this,
pub const SKEW: Duration = Duration::from_secs(1_200);
/// at most so many times, forwards or backwards.
pub const SKEWS: u32 = 3;

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// When, after the storm began.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
    /// Whom it hits, and what else is to be drawn: a number to be taken modulo what there is.
    pub whom: usize,
}

/// Settings of the nodes: small, so that everything that happens in months happens in seconds.
#[derive(Clone, Debug)]
pub struct Tuning {
    heartbeat_ms: u64,
    entries_kept: u64,
    lanes: usize,
    log_segment_bytes: u64,
    seal_rows: usize,
    fan_in: usize,
    slots: Pace,
}

impl Tuning {
    fn draw(draw: &mut SmallRng) -> Tuning {
        Tuning {
            heartbeat_ms: *[100, 200, 400].choose(draw).unwrap_or(&200),
            entries_kept: *[0, 20, 200].choose(draw).unwrap_or(&20),
            lanes: draw.random_range(2..=3),
            log_segment_bytes: *[8 << 10, 32 << 10, 128 << 10].choose(draw).unwrap_or(&(32 << 10)),
            seal_rows: draw.random_range(20..=120),
            fan_in: draw.random_range(2..=4),
            slots: Pace::default(),
        }
    }

    /// So small that a log is purged, a segment sealed and a snapshot sent after a second of work, and slots move in many steps.
    fn small() -> Tuning {
        Tuning {
            heartbeat_ms: 100,
            entries_kept: 10,
            lanes: 2,
            log_segment_bytes: 16 << 10,
            seal_rows: 20,
            fan_in: 2,
            slots: Pace { rows: 6, tail_min: 2, ..Pace::default() },
        }
    }

    /// Sets a node up.
    pub fn apply(&self, options: &mut Options) {
        options.threads = 1;
        options.raft.heartbeat_ms = self.heartbeat_ms;
        options.raft.entries_kept = self.entries_kept;
        options.log.lanes = self.lanes;
        options.log.segment_bytes = self.log_segment_bytes;
        options.log.segments_max = 3;
        options.store.seal_rows = self.seal_rows;
        options.store.graph_rows_min = self.seal_rows / 2;
        options.store.index_threads = 1;
        options.store.fan_in = self.fan_in;
        options.store.segments_max = 4;
        options.worker.verify_every = Duration::from_secs(3);
        options.worker.space_pause = Duration::from_millis(500);
        options.slots = self.slots;
        options.equality.every = Duration::from_secs(2);
    }
}

/// Everything about one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// Shard nodes: 3 or 5.
    pub nodes: usize,
    /// Nodes that learn only.
    pub learners: usize,
    /// Routers.
    pub routers: usize,
    /// Partitions of the collection.
    pub partitions: u32,
    /// Clients at work.
    pub clients: usize,
    /// Keys that they share.
    pub keys: u64,
    /// Between two calls of a client.
    pub pace: Duration,
    /// How long the storm lasts.
    pub storm: Duration,
    /// How long a message takes, at most, in fair weather.
    pub latency: Duration,
    /// Settings of the nodes.
    pub tuning: Tuning,
    /// Faults in the order of their times.
    pub faults: Vec<Fault>,
    /// Whether there is a second collection, whose groups are replaced.
    pub has_groups: bool,
}

impl Plan {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Plan {
        let mut draw = SmallRng::seed_from_u64(seed);
        let draw = &mut draw;
        let storm = Duration::from_millis(draw.random_range(3_000..=6_000));
        let nodes = if draw.random_bool(0.7) { 3 } else { 5 };
        Plan {
            seed,
            nodes,
            learners: usize::from(draw.random_bool(0.5)),
            routers: 2,
            partitions: draw.random_range(1..=3),
            clients: draw.random_range(4..=8),
            keys: draw.random_range(20..=60),
            pace: Duration::from_millis(draw.random_range(20..=60)),
            storm,
            latency: Duration::from_millis(draw.random_range(1..=10)),
            tuning: Tuning::draw(draw),
            faults: faults(draw, storm),
            has_groups: draw.random(),
        }
    }

    /// By how much a member's wall clock may be off.
    pub fn clocks_off(&self) -> Duration {
        let is_skewed = self.faults.iter().any(|fault| fault.kind == Kind::Skew);
        if is_skewed { SKEW * SKEWS } else { Duration::ZERO }
    }

    /// A small cluster in fair weather: one partition, and few writes.
    pub fn calm(seed: u64, nodes: usize) -> Plan {
        Plan {
            seed,
            nodes,
            learners: 0,
            routers: 2,
            partitions: 1,
            clients: 4,
            keys: 40,
            pace: Duration::from_millis(40),
            storm: Duration::ZERO,
            latency: Duration::from_millis(2),
            tuning: Tuning::small(),
            faults: Vec::new(),
            has_groups: false,
        }
    }
}

fn faults(draw: &mut SmallRng, storm: Duration) -> Vec<Fault> {
    let mut kinds = KINDS.to_vec();
    kinds.shuffle(draw);
    kinds.truncate(draw.random_range(1..=6));
    let mut faults = Vec::new();
    for kind in kinds {
        let times = match kind {
            Kind::Blackout | Kind::Grow => 1,
            _ => draw.random_range(1..=4),
        };
        for _ in 0..times {
            let millis = |draw: &mut SmallRng, span: std::ops::Range<u64>| {
                Duration::from_millis(draw.random_range(span))
            };
            let end = storm.as_millis() as u64;
            faults.push(Fault {
                kind,
                at: millis(draw, 100..end - 500),
                lasts: millis(draw, 50..3_000),
                whom: draw.random_range(0..usize::MAX),
            });
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

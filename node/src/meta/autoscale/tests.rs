//! A day of load as a golden file, and what holds of every day.

use std::fmt::Write as _;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const GIB: u64 = 1 << 30;
/// How often the cluster is looked at.
const STEP: u64 = 30;
const DAY: u64 = 24 * 3_600;
/// Queries per second that one processor answers.
const QPS_PER_CPU: f64 = 1_000.0;
const CPUS: f64 = 8.0;

/// A cluster that follows what is decided: up within three minutes; down once it was drained, which takes twenty.
struct Day {
    noise: SmallRng,
    members: u32,
    change: Option<(u64, u32)>,
    records: u64,
}

fn clock(second: u64) -> String {
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// Queries per second: a quiet night, a ramp from six to nine, a spike around noon, an evening that fades.
fn demand(hour: f64) -> f64 {
    let ramp = |from: f64, to: f64| ((hour - from) / (to - from)).clamp(0.0, 1.0);
    let day = 2_000.0 + 12_000.0 * (ramp(6.0, 9.0) - ramp(17.0, 21.0));
    if (12.0..13.0).contains(&hour) { day + 16_000.0 } else { day }
}

impl Day {
    fn look(&mut self, second: u64) -> Look {
        let hour = second as f64 / 3_600.0;
        let is_bulk = (2.0..3.0).contains(&hour);
        if is_bulk {
            self.records += 6_000 * STEP;
        }
        // One node is lost from half past two in the afternoon, for half an hour.
        let alive = if (14.5..15.0).contains(&hour) { self.members - 1 } else { self.members };
        let qps = demand(hour) * self.noise.random_range(0.95..1.05);
        let busy = qps / QPS_PER_CPU / f64::from(alive) + if is_bulk { 5.0 } else { 0.2 };
        let load = busy / CPUS;
        let p99 = Duration::from_secs_f64(0.004 / (1.0 - load.min(0.97)));
        let stored = self.records * 150 * 2 / u64::from(self.members);
        let figures = Figures {
            memory_used: GIB + stored,
            memory_limit: 16 * GIB,
            disk_used: 5 * GIB + stored * 3,
            disk_whole: 100 * GIB,
            cpu_used: busy.min(CPUS),
            cpus: CPUS,
            p99: Some(p99),
            queued: ((load - 1.0).max(0.0) * 1_000.0) as u64,
        };
        Look {
            at: Duration::from_secs(second),
            members: self.members,
            figures: vec![figures; alive as usize],
            records: self.records,
            waiting: if is_bulk { 1_000_000 } else { 0 },
            replicas: 64,
            replication: 2,
            is_moving: self.change.is_some(),
        }
    }

    fn follow(&mut self, second: u64, wanted: u32) {
        if let Some((_, members)) = self.change.filter(|(at, _)| *at <= second) {
            (self.members, self.change) = (members, None);
        } else if self.change.is_none() && wanted != self.members {
            let takes = if wanted > self.members { 180 } else { 1_200 };
            self.change = Some((second + takes, wanted));
        }
    }
}

/// A day from this seed, as lines: when something was decided, or held back otherwise than before.
fn told(seed: u64) -> String {
    let mut day = Day { noise: SmallRng::seed_from_u64(seed), members: 3, change: None, records: 6_000_000 };
    let mut autoscaler = Autoscaler::new(Options::default());
    let (mut last, mut text) = (None, String::new());
    for second in (0..DAY).step_by(STEP as usize) {
        let decision = autoscaler.look(&day.look(second));
        day.follow(second, decision.nodes);
        if last.as_ref() != Some(&decision) {
            let hold = decision.hold.map_or("-", Hold::word);
            let (nodes, reason, members) = (decision.nodes, decision.reason.word(), day.members);
            writeln!(
                text,
                "{} members {members} desired {nodes} {reason:<8} hold {hold:<6} {}",
                clock(second),
                decision.note
            )
            .unwrap();
            last = Some(decision);
        }
    }
    text
}

#[test]
fn a_day_of_load_is_decided_as_it_was() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/meta/autoscale/day.txt");
    let is = told(7);
    if std::env::var_os("FLOTILLA_GOLDEN").is_some() {
        std::fs::write(golden, &is).unwrap();
    }
    assert_eq!(is, include_str!("day.txt"), "run again with FLOTILLA_GOLDEN=1 to write it anew, and read it");
}

fn steady(members: u32, share: f64) -> Look {
    let figures = Figures {
        memory_used: (share * 100.0) as u64 * GIB,
        memory_limit: 100 * GIB,
        cpu_used: share * 8.0,
        cpus: 8.0,
        ..Figures::default()
    };
    Look { members, figures: vec![figures; members as usize], replication: 1, ..Look::default() }
}

/// Looks at the same for so long; tells the last decision.
fn dwell(autoscaler: &mut Autoscaler, look: &mut Look, seconds: u64) -> Decision {
    let mut decision = autoscaler.look(look);
    for _ in 0..seconds.div_ceil(10) {
        look.at += Duration::from_secs(10);
        decision = autoscaler.look(look);
    }
    decision
}

#[test]
fn each_thing_that_runs_short_is_named() {
    let after = |look: Look| {
        let mut look = look;
        let decision = dwell(&mut Autoscaler::new(Options::default()), &mut look, 200);
        (decision.nodes, decision.reason)
    };
    let with = |share: f64, change: &dyn Fn(&mut Figures)| {
        let mut look = steady(4, share);
        look.figures.iter_mut().for_each(change);
        look
    };
    assert_eq!(after(steady(4, 0.5)), (4, Reason::Members));
    assert_eq!(after(with(0.5, &|node| node.cpu_used = 6.0)), (5, Reason::Cpu));
    assert_eq!(after(with(0.1, &|node| node.memory_used = 70 * GIB)), (5, Reason::Memory), "one may be lost");
    assert_eq!(after(with(0.1, &|node| (node.disk_used, node.disk_whole) = (85, 100))), (5, Reason::Disk));
    assert_eq!(after(with(0.5, &|node| node.p99 = Some(Duration::from_millis(51)))), (5, Reason::Latency));
    assert_eq!(after(with(0.5, &|node| node.queued = 101)), (5, Reason::Queue));
    assert_eq!(after(Look { replicas: 300, ..steady(4, 0.5) }), (5, Reason::Replicas));
    assert_eq!(after(Look { replication: 5, ..steady(4, 0.5) }), (5, Reason::Replicas));
    let many = with(0.5, &|node| node.cpu_used = 16.0);
    assert_eq!(after(many.clone()), (12, Reason::Cpu), "as many as it takes at once");
    assert_eq!(after(Look { waiting: 1_000_000, ..many }), (4, Reason::Members), "a bulk load");
}

#[test]
fn fewer_only_when_nothing_holds_and_another_may_be_lost() {
    let after = |look: Look| {
        let mut look = look;
        dwell(&mut Autoscaler::new(Options::default()), &mut look, 1_900)
    };
    let calm = after(steady(4, 0.1));
    assert_eq!((calm.nodes, calm.reason, calm.hold), (3, Reason::Calm, None));
    let held = |look: Look| {
        let decision = after(look);
        (decision.nodes, decision.hold)
    };
    assert_eq!(held(Look { is_moving: true, ..steady(4, 0.1) }), (4, Some(Hold::Moves)));
    assert_eq!(held(Look { waiting: 1_000_000, ..steady(4, 0.1) }), (4, Some(Hold::Bulk)));
    assert_eq!(held(Look { members: 5, ..steady(4, 0.1) }), (5, Some(Hold::Silent)));
    assert_eq!(held(Look { replication: 4, ..steady(4, 0.1) }), (4, None), "each replica has a node");
    assert_eq!(held(steady(1, 0.0)), (1, None));
    assert_eq!(held(steady(2, 0.29)).0, 1, "one that is alone has nobody to lose");
    let mut full = steady(3, 0.1);
    full.figures.iter_mut().for_each(|node| node.memory_used = 60 * GIB);
    assert_eq!(held(full).0, 3, "two could not lose one");
}

#[test]
fn whoever_adds_nodes_by_hand_is_followed_and_looks_far_apart_say_nothing() {
    let mut autoscaler = Autoscaler::new(Options::default());
    assert_eq!(autoscaler.look(&steady(3, 0.5)).nodes, 3);
    assert_eq!(autoscaler.look(&steady(6, 0.5)).nodes, 6);
    let busy = |seconds| Look { at: Duration::from_secs(seconds), ..steady(6, 0.75) };
    autoscaler.look(&busy(10));
    assert_eq!(autoscaler.look(&busy(1_000)).nodes, 6, "nobody knows what was in between");
    assert_eq!(autoscaler.look(&busy(1_170)).nodes, 6);
    assert_eq!(autoscaler.look(&busy(1_180)).nodes, 7);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is seen: bounds hold, one down at a time, and a change of direction takes its time.
    #[test]
    fn nothing_flaps_and_no_bound_is_broken(
        shares in prop::collection::vec((0.0..1.2_f64, 0..120_u64, 0..200_u64, any::<bool>(), 1..5_u32), 1..40),
        replication in 1..4_u32,
        nodes_min in 1..4_u32,
        seed in any::<u64>(),
    ) {
        let options = Options { nodes_min, nodes_max: 12, ..Options::default() };
        let mut autoscaler = Autoscaler::new(options);
        let mut draw = SmallRng::seed_from_u64(seed);
        let (mut at, mut members) = (0_u64, 3_u32.max(replication).max(nodes_min));
        let mut last: Option<(u64, bool)> = None;
        let mut before = members;
        for (share, p99, queued, is_moving, spans) in shares {
            for _ in 0..spans * 60 {
                at += 10;
                let mut look = steady(members, share * f64::from(draw.random_range(90..110_u32)) / 100.0);
                look.figures.iter_mut().for_each(|node| (node.p99, node.queued) = (Some(Duration::from_millis(p99)), queued));
                look = Look { at: Duration::from_secs(at), replication, is_moving, ..look };
                let nodes = autoscaler.look(&look).nodes;
                prop_assert!(nodes >= replication.max(nodes_min) && nodes <= 12, "{nodes} nodes");
                if nodes != before {
                    let is_up = nodes > before;
                    prop_assert!(is_up || before - nodes == 1, "{before} to {nodes}");
                    let least = if is_up { options.up_after } else { options.down_after };
                    if let Some((when, _)) = last {
                        prop_assert!(Duration::from_secs(at - when) >= least, "again after {} s", at - when);
                    }
                    last = Some((at, is_up));
                    before = nodes;
                }
                // Whoever has the nodes follows, but not always at once.
                if draw.random_range(0..20_u32) == 0 {
                    members = nodes;
                }
            }
        }
    }
}

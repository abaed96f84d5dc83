//! One run: a cluster is set up, the storm comes and goes, and then everything must be right again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_node::env::sim::{self, Disk};
use flotilla_tests::checker;
use flotilla_tests::history::{History, Recorder};
use turmoil::{Builder, Sim};
use xxhash_rust::xxh3::Xxh3;

use crate::host::{Desk, Member};
use crate::plan::{Kind, Plan};
use crate::storm::Storm;
use crate::witness::Witness;
use crate::work::Stage;
use crate::{host, net, taps, weather, work};

/// How long a cluster may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take after the storm until calls succeed and replicas are equal.
const HEALS_WITHIN: Duration = Duration::from_secs(10);
/// Calls that must succeed after the storm before clients may rest.
const PROGRESS: usize = 30;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What is wrong, if anything is.
    pub verdict: Result<checker::Tally, String>,
    /// A number that two runs of one seed share.
    pub trace: u64,
    /// How often each kind of fault fired.
    pub fired: BTreeMap<Kind, u64>,
    /// Simulated time.
    pub simulated: Duration,
    /// From the storm's end until all was well.
    pub healed: Duration,
}

/// Runs a seed. Once per process: much of what it sets is the process's.
pub fn run(seed: u64) -> Report {
    let plan = Plan::of(seed);
    tracing::info!(?plan, "begins");
    sim::enter(sim::World {
        connect: net::connect,
        skew: weather::skew,
        effort: weather::effort,
        sync: weather::sync,
    });
    flotilla_router::pool::dial_by(net::connect);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(3_600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(plan.latency)
        .tcp_capacity(4_096)
        .enable_random_order()
        .build();

    let names: Vec<String> = (1..=plan.nodes)
        .map(|n| format!("node{n}"))
        .chain((1..=plan.learners).map(|n| format!("learner{n}")))
        .collect();
    let disks: Vec<Arc<Disk>> = (0..)
        .zip(&names)
        .map(|(n, name)| Disk::mount(format!("/simulated/{name}"), seed.wrapping_mul(31).wrapping_add(n)))
        .collect();
    let (desk, stage, recorder) =
        (Arc::new(Desk::default()), Arc::new(Stage::default()), Arc::new(Recorder::default()));
    for (at, name) in names.iter().enumerate() {
        let member = Member {
            name: name.clone(),
            seeds: if at == 0 { vec![] } else { names[..plan.nodes].to_vec() },
            is_replica: at >= plan.nodes,
            tuning: plan.tuning.clone(),
        };
        let desk = desk.clone();
        sim.host(name.as_str(), move || member.clone().run(desk.clone()));
    }
    for n in 1..=plan.routers {
        let nodes = names[..plan.nodes].to_vec();
        sim.host(format!("router{n}"), move || host::route(nodes.clone()));
    }
    sim.client("clients", work::run(plan.clone(), stage.clone(), recorder.clone()));

    let mut storm = Storm::new(&plan, &names, &disks, &desk, &stage);
    let mut healed = Duration::ZERO;
    let outcome = weather_it(&plan, &mut sim, &mut storm, &desk, &stage, &recorder, &mut healed);
    let history = recorder.history();
    let verdict = match outcome.and_then(|()| checker::check(&history)) {
        Err(why) => Err(format!("{why}\nthe last failures:{}", last_failures(&history))),
        good => good,
    };
    let trace = trace(&history, &disks);
    Report { verdict, trace, fired: storm.fired().clone(), simulated: sim.elapsed(), healed }
}

/// The course of a run: set up, storm, calm.
fn weather_it(
    plan: &Plan,
    sim: &mut Sim<'_>,
    storm: &mut Storm<'_>,
    desk: &Desk,
    stage: &Stage,
    recorder: &Recorder,
    healed: &mut Duration,
) -> Result<(), String> {
    let lacks = |what: &str| Err(format!("{what}: {}", stage.lacks.lock()));
    while !stage.is_set.load(Ordering::SeqCst) {
        weather::step(sim);
        if sim.elapsed() > BEGINS_WITHIN {
            return lacks("the cluster does not begin");
        }
    }
    tracing::info!(elapsed = ?sim.elapsed(), "the storm begins");
    let (begin, mut witness) = (sim.elapsed(), Witness::default());
    while sim.elapsed() - begin < plan.storm {
        storm.step(sim, sim.elapsed() - begin);
        weather::step(sim);
        witness.look(desk)?;
    }
    let calm = sim.elapsed();
    storm.calm(sim, calm - begin);
    tracing::info!(elapsed = ?sim.elapsed(), "the storm is over");
    let acknowledged = || recorder.note(|history| history.acknowledged());
    let before = acknowledged();
    while !stage.is_done.load(Ordering::SeqCst) {
        storm.step(sim, sim.elapsed() - begin);
        weather::step(sim);
        witness.look(desk)?;
        *healed = sim.elapsed() - calm;
        if acknowledged() >= before + PROGRESS {
            stage.is_over.store(true, Ordering::SeqCst);
        }
        if *healed > HEALS_WITHIN {
            let more = acknowledged() - before;
            return lacks(&format!("not healed within {HEALS_WITHIN:?} ({more} calls succeeded)"));
        }
    }
    Ok(())
}

fn last_failures(history: &History) -> String {
    let failures: Vec<String> = history.failures().map(|call| format!("\n  {call}")).collect();
    failures[failures.len().saturating_sub(8)..].concat()
}

/// Everything that clients saw, what the disks did and how much chance was asked for, as one number.
fn trace(history: &History, disks: &[Arc<Disk>]) -> u64 {
    let mut hash = Xxh3::new();
    for call in &history.calls {
        hash.update(format!("{call:?}").as_bytes());
    }
    for operation in &history.operations {
        hash.update(format!("{operation:?}").as_bytes());
    }
    for disk in disks {
        hash.update(format!("{:?}", disk.counts()).as_bytes());
    }
    hash.update(&taps::drawn().to_le_bytes());
    hash.update(&net::made().to_le_bytes());
    hash.digest()
}

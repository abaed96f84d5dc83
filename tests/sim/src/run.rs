//! One run: a cluster is set up, the storm comes and goes, and then everything must be right again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_tests::checker;
use flotilla_tests::history::Recorder;
use turmoil::Sim;

use crate::host::Desk;
use crate::plan::{Kind, Plan};
use crate::scene::{HEALS_WITHIN, PROGRESS, Scene};
use crate::storm::Storm;
use crate::weather;
use crate::witness::Witness;
use crate::work::Stage;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What is wrong, if anything is.
    pub verdict: Result<checker::Tally, String>,
    /// A number that two runs of one seed share.
    pub trace: u64,
    /// How often each kind of fault fired.
    pub fired: BTreeMap<Kind, u64>,
    /// How many calls of each verb were acknowledged.
    pub verbs: BTreeMap<&'static str, u64>,
    /// Simulated time.
    pub simulated: Duration,
    /// From the storm's end until all was well.
    pub healed: Duration,
}

/// Runs a seed. Once per process: much of what it sets is the process's.
pub fn run(seed: u64) -> Report {
    let plan = Plan::of(seed);
    let (mut scene, mut healed) = (Scene::of(&plan), Duration::ZERO);
    let begun = scene.begin();
    let Scene { sim, names, disks, desk, stage, recorder } = &mut scene;
    let mut storm = Storm::new(&plan, names, disks, desk, stage);
    let outcome = begun.and_then(|()| weather_it(&plan, sim, &mut storm, desk, stage, recorder, &mut healed));
    let fired = storm.fired().clone();
    let verdict = scene.judge(outcome);
    let verbs = scene.recorder.note(|history| history.verbs());
    Report { verdict, trace: scene.trace(), fired, verbs, simulated: scene.sim.elapsed(), healed }
}

/// The course of a run: storm, calm.
fn weather_it(
    plan: &Plan,
    sim: &mut Sim<'_>,
    storm: &mut Storm<'_>,
    desk: &Desk,
    stage: &Stage,
    recorder: &Recorder,
    healed: &mut Duration,
) -> Result<(), String> {
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
            let (more, lacks) = (acknowledged() - before, stage.lacks.lock());
            return Err(format!("not healed within {HEALS_WITHIN:?} ({more} calls succeeded): {lacks}"));
        }
    }
    Ok(())
}

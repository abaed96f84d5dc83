//! All crash points of a scenario, each in a process of its own.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::ValueEnum as _;

use super::{Keeps, Point, Setting};
use crate::sweep::{self, Told};

/// Fewer steps than this, and the scenario is not what it is meant to be.
const STEPS_MIN: u64 = 10;

/// Asks a run without a cut for the steps that there are: by node, its parts and how many. None if a node has two parts: then
/// it is another seed's turn.
fn survey(setting: &Setting) -> Result<Option<BTreeMap<String, u64>>, String> {
    let told = sweep::run(&setting.arguments(None));
    if !told.is_good {
        return Err(told.why);
    }
    let words: Vec<&str> = told.first.split_whitespace().collect();
    let mut steps = BTreeMap::new();
    for part in words.windows(4).filter(|part| part[0] == "steps") {
        let made = part[3].parse().map_err(|_| format!("no number: {part:?}"))?;
        if made < STEPS_MIN {
            return Err(format!("{} makes {made} steps, of at least {STEPS_MIN}", part[2]));
        }
        steps.insert(part[2].to_owned(), made);
    }
    let are_three = steps.len() == 3;
    if are_three {
        println!("{}", told.first);
    }
    Ok(are_three.then_some(steps))
}

/// The first of the settings under which giver, taker and leader of the meta group are three nodes, and its steps.
fn first(settings: &[Setting]) -> Result<(Setting, BTreeMap<String, u64>), String> {
    for setting in settings {
        let steps = survey(setting).map_err(|why| format!("{why}\nreplay: {}", setting.command(None)))?;
        if let Some(steps) = steps {
            return Ok((*setting, steps));
        }
    }
    let seeds: Vec<u64> = settings.iter().map(|setting| setting.seed).collect();
    Err(format!(
        "giver, taker and leader of the meta group are three nodes under none of the seeds {seeds:?}"
    ))
}

/// So many points, spread evenly over the steps: without a number one of each, what it leaves changing from one step to the next.
/// Three times as many are all that there are.
fn points(steps: &BTreeMap<String, u64>, count: Option<usize>) -> Vec<Point> {
    let all: Vec<(&String, u64)> =
        steps.iter().flat_map(|(node, made)| (1..=*made).map(move |at| (node, at))).collect();
    let kinds = Keeps::value_variants();
    let count = count.unwrap_or(all.len()).min(all.len() * kinds.len());
    let point = |n: usize| {
        let (node, at) = all[n * all.len() / count];
        Point { node: node.clone(), at, keeps: kinds[n % kinds.len()] }
    };
    (0..count).map(point).collect()
}

/// Of what a step was, with numbers and drawn names left out.
fn kind(path: &str) -> String {
    let is_drawn = |name: &str| name.len() >= 16 && name.chars().all(|c| c.is_ascii_hexdigit());
    let kind = |name: &str| {
        let (stem, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
        let stem =
            if is_drawn(stem) { "#".to_owned() } else { stem.replace(|c: char| c.is_ascii_digit(), "#") };
        let mut kind = stem + rest;
        while kind.contains("##") {
            kind = kind.replace("##", "#");
        }
        kind
    };
    path.split('/').map(kind).collect::<Vec<_>>().join("/")
}

/// Runs the points of this node, or of all, under the first setting that fits, and prints those that fail. Whether none did.
pub fn sweep(settings: &[Setting], node: Option<&str>, count: Option<usize>, jobs: usize) -> bool {
    let began = Instant::now();
    let (setting, mut steps) = match first(settings) {
        Ok(found) => found,
        Err(why) => {
            println!("without a cut: {why}");
            return false;
        }
    };
    steps.retain(|name, _| node.is_none_or(|node| node == name));
    let points = points(&steps, count);
    let runs: Vec<Vec<String>> = points.iter().map(|point| setting.arguments(Some(point))).collect();
    let (mut bad, mut ran) = (0, 0);
    let (mut simulated, mut operations, mut healed, mut again) = (0.0, 0, 0.0f64, 0);
    let mut cut: BTreeMap<String, u64> = BTreeMap::new();
    sweep::each(&runs, jobs, |at, told: Told| {
        ran += 1;
        simulated += told.simulated;
        operations += told.operations;
        healed = healed.max(told.after("healed").and_then(|text| text.parse().ok()).unwrap_or(0.0));
        again += u64::from(told.after("asked").is_some_and(|times| times != "1"));
        let path = told.after("cut").map(kind);
        if !told.is_good || path.is_none() {
            println!("{}: {}", setting.command(Some(&points[at])), told.why);
            bad += 1;
        }
        *cut.entry(path.unwrap_or_else(|| "nothing".to_owned())).or_default() += 1;
        true
    });
    for (path, times) in &cut {
        println!("cut {times} times: {path}");
    }
    println!(
        "{ran} crash points of {steps:?}: {bad} failed; healed within {healed:.1} s, asked again in {again}; {:.2} simulated hours, \
         {operations} operations checked, in {:.0} s",
        simulated / 3_600.0,
        began.elapsed().as_secs_f64()
    );
    bad == 0 && ran > 0 && ran == points.len()
}

//! Many runs, each in a process of its own: what one run sets is its process's.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use flotilla_tests::load::VERBS;

use crate::bugs::Planted;
use crate::plan::KINDS;

/// How often something of each name came about.
type Named = Vec<(String, u64)>;

/// What a child printed.
#[derive(Debug, Default)]
pub struct Told {
    /// Whether all was well.
    pub is_good: bool,
    /// Its first line.
    pub first: String,
    /// Simulated seconds.
    pub simulated: f64,
    /// Operations that were judged.
    pub operations: u64,
    /// What was wrong.
    pub why: String,
}

impl Told {
    /// The word that comes after this one in the first line.
    pub fn after(&self, name: &str) -> Option<&str> {
        self.first.split_whitespace().skip_while(|word| *word != name).nth(1)
    }

    /// How many calls of each verb were acknowledged, and how often each kind of fault fired.
    fn counts(&self) -> (Named, Named) {
        let told = self.first.split_once(" calls ").map_or("", |(_, told)| told);
        let (verbs, faults) = told.split_once(" faults ").unwrap_or_default();
        let counts = |list: &str| {
            let counts = list.split(", ").filter_map(|count| count.split_once(' '));
            counts.map(|(name, times)| (name.to_owned(), times.parse().unwrap_or(0))).collect()
        };
        (counts(verbs), counts(faults))
    }
}

/// Runs this program with these arguments.
pub fn run(arguments: &[String]) -> Told {
    let mut told = Told::default();
    let Ok(program) = std::env::current_exe() else {
        told.why = "this program does not find itself".to_owned();
        return told;
    };
    let mut command = Command::new(program);
    let output = match command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).output() {
        Ok(output) => output,
        Err(why) => {
            told.why = why.to_string();
            return told;
        }
    };
    told.is_good = output.status.success();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    told.first = lines.next().unwrap_or_default().to_owned();
    told.simulated = told.after("simulated").and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let rest: Vec<&str> = lines.collect();
    told.operations = rest
        .iter()
        .find_map(|line| {
            line.split_once(" operations").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        })
        .unwrap_or(0);
    if !told.is_good {
        told.why = rest.join("\n");
        if rest.is_empty() {
            let errors = String::from_utf8_lossy(&output.stderr);
            told.why =
                format!("{}: {}", output.status, errors.lines().take(6).collect::<Vec<_>>().join("\n"));
        }
    }
    told
}

/// Runs the program with each of these arguments and gives each answer to `each` with its number, in the order in which they
/// end, until it says stop.
pub fn each(runs: &[Vec<String>], jobs: usize, each: impl FnMut(usize, Told) -> bool + Send) {
    let (next, each) = (AtomicUsize::new(0), Mutex::new((each, true)));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(arguments) = runs.get(at) else { return };
                    let told = run(arguments);
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    if !each.1 {
                        return;
                    }
                    each.1 = (each.0)(at, told);
                }
            });
        }
    });
}

/// The arguments that run these seeds.
fn seeds(from: u64, count: u64, bug: Option<Planted>) -> Vec<Vec<String>> {
    let planted = bug.map(|bug| ["--bug".to_owned(), bug.name().to_owned()]);
    let arguments = |seed: u64| {
        ["--seed".to_owned(), seed.to_string()].into_iter().chain(planted.clone().into_iter().flatten())
    };
    (from..from.saturating_add(count)).map(|seed| arguments(seed).collect()).collect()
}

/// How often each of these came about, in many runs.
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn of(names: impl IntoIterator<Item = String>) -> Counts {
        Counts(names.into_iter().map(|name| (name, 0)).collect())
    }

    fn add(&mut self, more: Named) {
        more.into_iter().for_each(|(name, times)| *self.0.entry(name).or_default() += times);
    }

    /// Prints them. Whether each came about at least once in a hundred runs.
    fn tell(&self, what: &str, runs: u64) -> bool {
        let told: Vec<String> = self.0.iter().map(|(name, times)| format!("{name} {times}")).collect();
        println!("{what}: {}", told.join(", "));
        let is_rare = |(_, times): &(&String, &u64)| **times * 100 < runs;
        let rare: Vec<&String> = self.0.iter().filter(is_rare).map(|(name, _)| name).collect();
        if !rare.is_empty() {
            println!("too rarely for {runs} seeds: {rare:?}");
        }
        rare.is_empty()
    }
}

/// Runs these seeds and prints those that fail, and how often each fault fired and each verb was acknowledged. Whether all were
/// good and nothing came about too rarely: at least once in a hundred seeds.
pub fn sweep(from: u64, count: u64, jobs: usize, bug: Option<Planted>) -> bool {
    let began = Instant::now();
    let (mut bad, mut simulated, mut operations) = (Vec::new(), 0.0, 0);
    let mut fired = Counts::of(KINDS.iter().map(|kind| format!("{kind:?}")));
    let mut verbs = Counts::of(VERBS.map(str::to_owned));
    each(&seeds(from, count, bug), jobs, |at, told| {
        let seed = from + at as u64;
        simulated += told.simulated;
        operations += told.operations;
        let (called, struck) = told.counts();
        verbs.add(called);
        fired.add(struck);
        if !told.is_good {
            println!("seed {seed}: {}", told.why);
            bad.push(seed);
        }
        true
    });
    let is_wide = verbs.tell("calls", count) & fired.tell("faults", count);
    bad.sort_unstable();
    println!(
        "{} seeds from {from}: {} failed {bad:?}; {:.2} simulated hours, {operations} operations checked, in {:.0} s",
        count,
        bad.len(),
        simulated / 3_600.0,
        began.elapsed().as_secs_f64()
    );
    bad.is_empty() && is_wide
}

/// A seed of these that finds the bug, with the first line of what it says. A cluster that only does not heal may have another
/// reason: that is told where no seed shows the bug in an answer.
pub fn first_failing(from: u64, count: u64, jobs: usize, bug: Planted) -> Option<(u64, String)> {
    let (mut found, mut unhealed) = (None, None);
    each(&seeds(from, count, Some(bug)), jobs, |at, told| {
        if !told.is_good {
            let line = told.why.lines().next().unwrap_or_default().trim_start_matches("FAILED: ");
            let shown = (from + at as u64, line.chars().take(100).collect());
            let place = if line.starts_with("not healed") { &mut unhealed } else { &mut found };
            place.get_or_insert(shown);
        }
        found.is_none()
    });
    found.or(unhealed)
}

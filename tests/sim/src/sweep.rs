//! Many seeds, each in a process of its own: what one run sets is its process's.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::bugs::Planted;
use crate::plan::KINDS;

/// What a child printed.
struct Told {
    seed: u64,
    is_good: bool,
    simulated: f64,
    operations: u64,
    fired: BTreeMap<String, u64>,
    why: String,
}

fn run(seed: u64, bug: Option<Planted>) -> Told {
    let mut told = Told {
        seed,
        is_good: false,
        simulated: 0.0,
        operations: 0,
        fired: BTreeMap::new(),
        why: String::new(),
    };
    let Ok(program) = std::env::current_exe() else {
        told.why = "this program does not find itself".to_owned();
        return told;
    };
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
    if let Some(bug) = bug {
        command.args(["--bug", bug.name()]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(why) => {
            told.why = why.to_string();
            return told;
        }
    };
    told.is_good = output.status.success();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let words: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
    told.simulated = after("simulated").and_then(|text| text.parse().ok()).unwrap_or(0.0);
    if let Some((_, faults)) = text.lines().next().unwrap_or_default().split_once(" faults ") {
        for fault in faults.split(", ") {
            if let Some((kind, times)) = fault.split_once(' ') {
                told.fired.insert(kind.to_owned(), times.parse().unwrap_or(0));
            }
        }
    }
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

/// Runs these seeds and gives each answer to `each`, in the order in which they end, until it says stop.
fn each(from: u64, count: u64, jobs: usize, bug: Option<Planted>, each: impl FnMut(Told) -> bool + Send) {
    let (next, each) = (AtomicU64::new(from), Mutex::new((each, true)));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(count) {
                        return;
                    }
                    let told = run(seed, bug);
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    if !each.1 {
                        return;
                    }
                    each.1 = (each.0)(told);
                }
            });
        }
    });
}

/// Runs these seeds and prints those that fail, and how often each fault fired. Whether all were good and no kind of fault
/// fired too rarely: at least once in a hundred seeds.
pub fn sweep(from: u64, count: u64, jobs: usize, bug: Option<Planted>) -> bool {
    let began = Instant::now();
    let (mut bad, mut simulated, mut operations) = (Vec::new(), 0.0, 0);
    let mut fired: BTreeMap<String, u64> = KINDS.iter().map(|kind| (format!("{kind:?}"), 0)).collect();
    each(from, count, jobs, bug, |told| {
        simulated += told.simulated;
        operations += told.operations;
        told.fired.iter().for_each(|(kind, times)| *fired.entry(kind.clone()).or_default() += times);
        if !told.is_good {
            println!("seed {}: {}", told.seed, told.why);
            bad.push(told.seed);
        }
        true
    });
    let kinds: Vec<String> = fired.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    println!("faults: {}", kinds.join(", "));
    let rare: Vec<&String> =
        fired.iter().filter(|(_, times)| **times * 100 < count).map(|(kind, _)| kind).collect();
    if !rare.is_empty() {
        println!("fired too rarely for {count} seeds: {rare:?}");
    }
    bad.sort_unstable();
    println!(
        "{} seeds from {from}: {} failed {bad:?}; {:.2} simulated hours, {operations} operations checked, in {:.0} s",
        count,
        bad.len(),
        simulated / 3_600.0,
        began.elapsed().as_secs_f64()
    );
    bad.is_empty() && rare.is_empty()
}

/// A seed of these that finds the bug, with the first line of what it says. A cluster that only does not heal may have another
/// reason: that is told where no seed shows the bug in an answer.
pub fn first_failing(from: u64, count: u64, jobs: usize, bug: Planted) -> Option<(u64, String)> {
    let (mut found, mut unhealed) = (None, None);
    each(from, count, jobs, Some(bug), |told| {
        if !told.is_good {
            let line = told.why.lines().next().unwrap_or_default().trim_start_matches("FAILED: ");
            let shown = (told.seed, line.chars().take(100).collect());
            let place = if line.starts_with("not healed") { &mut unhealed } else { &mut found };
            place.get_or_insert(shown);
        }
        found.is_none()
    });
    found.or(unhealed)
}

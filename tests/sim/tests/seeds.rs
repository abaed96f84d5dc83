//! The gate: seeds that every change must pass, the same seed twice, and bugs that must be found.

use std::process::{Command, Stdio};

/// Seeds that failed once, each with what it found: they are run before all others.
const FOUND: &str = include_str!("found.txt");
const FIXED: u64 = 300;
/// Seeds that are others each day, so that each day looks where none has looked before.
const FRESH: u64 = 100;
/// Where those begin, far behind what a sweep by hand reaches.
const FRESH_FROM: u64 = 1 << 32;
/// Bugs planted here; all twelve are planted by `cargo sim --bugs`.
const PLANTED: [&str; 3] = ["ack-before-commit", "tombstones-dropped", "coverage-hides-missing"];

fn sim(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let output = match command.args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(why) => return (false, format!("the simulator does not run: {why}")),
    };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), if told.is_empty() { errors.into_owned() } else { told })
}

fn sweep(from: u64, count: u64) {
    let (is_good, told) = sim(&["--from", &from.to_string(), "--seeds", &count.to_string()]);
    println!("{}", told.lines().last().unwrap_or_default());
    assert!(is_good, "{told}");
}

#[test]
fn seeds_that_failed_once_pass() {
    for line in FOUND.lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().expect("a seed");
        let (is_good, told) = sim(&["--seed", seed]);
        assert!(is_good, "{told}");
    }
}

#[test]
fn fixed_seeds_pass_and_every_fault_fires() {
    sweep(1, FIXED);
}

/// A failing one prints the command that repeats it, and `found.txt` keeps it.
#[test]
fn fresh_seeds_pass() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    sweep(FRESH_FROM + now.as_secs() / 86_400 * FRESH, FRESH);
}

#[test]
fn a_seed_does_the_same_twice() {
    for seed in ["3", "10", "24", "53", "63"] {
        let trace = || sim(&["--seed", seed]).1.split_whitespace().nth(3).map(str::to_owned);
        let (first, second) = (trace(), trace());
        assert!(first.is_some() && first == second, "seed {seed}: {first:?}, then {second:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in PLANTED {
        let (is_good, told) = sim(&["--bug", bug, "--find"]);
        println!("{bug}: {}", told.lines().last().unwrap_or_default());
        assert!(is_good, "{bug} got past the judges:\n{told}");
    }
}

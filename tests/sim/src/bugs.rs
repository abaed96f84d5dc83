//! Planted bugs: what the simulator must find.

use flotilla_node::planted::{self, BUGS, Bug};

use crate::sweep;

/// Seeds tried for each bug, at most.
const SEEDS: u64 = 100;
const COVERAGE: &str = "coverage-hides-missing";

/// A bug of the node, or the one of the router.
#[derive(Clone, Copy, Debug)]
pub enum Planted {
    /// In the node.
    Node(Bug, &'static str),
    /// An answer does not tell which partitions it misses.
    Coverage,
}

impl Planted {
    /// All bugs.
    pub fn all() -> impl Iterator<Item = Planted> {
        BUGS.iter().map(|(bug, name)| Planted::Node(*bug, name)).chain([Planted::Coverage])
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Planted::Node(_, name) => name,
            Planted::Coverage => COVERAGE,
        }
    }
}

/// The bug of this name.
///
/// # Errors
/// If there is none, with all names.
pub fn named(name: &str) -> Result<Planted, String> {
    let names: Vec<&str> = Planted::all().map(Planted::name).collect();
    Planted::all()
        .find(|bug| bug.name() == name)
        .ok_or_else(|| format!("no such bug; there are {}", names.join(", ")))
}

/// Plants it in this process.
pub fn plant(bug: Option<Planted>) {
    match bug {
        Some(Planted::Node(bug, _)) => planted::plant(Some(bug)),
        Some(Planted::Coverage) => {
            planted::plant(None);
            flotilla_router::planted::hide_missing();
        }
        None => planted::plant(None),
    }
}

/// Looks for a seed that finds this bug, and prints it. Whether there is one.
pub fn find(bug: Planted, jobs: usize) -> bool {
    let found = sweep::first_failing(1, SEEDS, jobs, bug);
    println!("{found:?}");
    found.is_some()
}

/// Plants each bug and prints, as a table, a seed that finds it: the first, but for what runs beside it. Whether all were found.
pub fn table(jobs: usize) -> bool {
    println!("| bug | found by seed | as |\n|---|---|---|");
    let mut all = true;
    for bug in Planted::all() {
        let found = sweep::first_failing(1, SEEDS, jobs, bug);
        all &= found.is_some();
        let (seed, why) =
            found.map_or(("none".to_owned(), String::new()), |(seed, why)| (seed.to_string(), why));
        println!("| `{}` | {seed} | {why} |", bug.name());
    }
    all
}

//! The simulator: whole clusters of the product's own code in one process and one thread, under a seed.
//!
//! `sim --seed N` runs one seed; the same seed does the same. `sim --seeds COUNT` runs many, each in a process of its own. A run
//! that fails prints the command that repeats it. See `tests/sim/README.md`.

mod bugs;
mod host;
mod net;
mod plan;
mod points;
mod run;
mod scene;
mod storm;
mod sweep;
mod taps;
mod weather;
mod witness;
mod work;

use std::process::ExitCode;

use clap::Parser;

use self::bugs::Planted;
use self::points::{Keeps, Point, Scenario, Setting};

/// Whole clusters under a seed.
#[derive(Parser, Debug)]
struct Arguments {
    /// Runs this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Runs so many seeds, each in a process of its own
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Processes at once [default: one per core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Plants a bug
    #[arg(long, value_parser = bugs::named)]
    bug: Option<Planted>,
    /// Plants each bug and tells in how many seeds it is found
    #[arg(long, conflicts_with_all = ["seed", "seeds", "bug"])]
    bugs: bool,
    /// With --bug: ends well as soon as one of the first hundred seeds finds it
    #[arg(long, requires = "bug", conflicts_with_all = ["seed", "seeds"])]
    find: bool,
    /// Cuts a node's power at each of its persist steps while this moves, each in a process of its own
    #[arg(long, value_enum, conflicts_with_all = ["seeds", "bugs", "find"])]
    crash_points: Option<Scenario>,
    /// Of this node only, as in `node2`
    #[arg(long, requires = "crash_points")]
    node: Option<String>,
    /// At this step only; at 0 the power is not cut
    #[arg(long, requires = "crash_points")]
    at: Option<u64>,
    /// With --at: what becomes of what the step was to make durable
    #[arg(long, value_enum, default_value = "nothing", requires = "at")]
    keeps: Keeps,
    /// So many points, spread evenly [default: one for each step; three for each are all]
    #[arg(long, requires = "crash_points", conflicts_with = "at")]
    points: Option<usize>,
    /// What to log, as in `info` or `flotilla_node=debug`
    #[arg(long, default_value = "off")]
    log: String,
}

/// The seed of a run in this process, by the command line. It is wanted before anything else: the first hash table asks for
/// chance.
fn seed() -> Option<u64> {
    let words: Vec<String> = std::env::args().collect();
    let after = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let seed = after("--seed").and_then(|word| word.parse().ok());
    match (after("--crash-points"), after("--at")) {
        (Some(_), Some(_)) => seed.or(Some(points::SEED)),
        (Some(_), None) => None,
        (None, _) => seed,
    }
}

fn main() -> ExitCode {
    let seed = seed();
    if let Some(seed) = seed {
        taps::enter(seed);
    }
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(arguments.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if let Some(scenario) = arguments.crash_points {
        let seed = arguments.seed.unwrap_or(points::SEED);
        return crash_points(&arguments, Setting { scenario, seed, bug: arguments.bug }, jobs);
    }
    let Some(seed) = arguments.seed else {
        let found = if arguments.bugs {
            bugs::table(jobs)
        } else if let (true, Some(bug)) = (arguments.find, arguments.bug) {
            bugs::find(bug, jobs)
        } else {
            sweep::sweep(arguments.from, arguments.seeds.unwrap_or(100), jobs, arguments.bug)
        };
        return if found { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    bugs::plant(arguments.bug);
    let report = run::run(seed);
    let fired: Vec<String> = report.fired.iter().map(|(kind, times)| format!("{kind:?} {times}")).collect();
    let verbs: Vec<String> = report.verbs.iter().map(|(verb, times)| format!("{verb} {times}")).collect();
    println!(
        "seed {seed} trace {:016x} simulated {:.1} healed {:.1} calls {} faults {}",
        report.trace,
        report.simulated.as_secs_f64(),
        report.healed.as_secs_f64(),
        verbs.join(", "),
        fired.join(", ")
    );
    match report.verdict {
        Ok(tally) => {
            println!("good: {tally}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("FAILED: {why}\nreplay: cargo sim --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

/// One crash point, or many.
fn crash_points(arguments: &Arguments, setting: Setting, jobs: usize) -> ExitCode {
    let node = arguments.node.as_deref();
    let is_good = |is_good| if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let Some(at) = arguments.at else {
        let seeds = arguments.seed.map_or(points::SEEDS, |seed| seed..seed + 1);
        let settings: Vec<Setting> = seeds.map(|seed| Setting { seed, ..setting }).collect();
        return is_good(points::sweep::sweep(&settings, node, arguments.points, jobs));
    };
    let point = match (at, node) {
        (0, _) => None,
        (_, Some(node)) => Some(Point { node: node.to_owned(), at, keeps: arguments.keeps }),
        (_, None) => {
            println!("FAILED: --at {at} needs --node");
            return ExitCode::FAILURE;
        }
    };
    let report = points::run(&setting, point.as_ref());
    println!(
        "{} trace {:016x} simulated {:.1} {}",
        setting.arguments(point.as_ref()).join(" "),
        report.trace,
        report.simulated.as_secs_f64(),
        report.course
    );
    match &report.verdict {
        Ok(tally) => println!("good: {tally}"),
        Err(why) => println!("FAILED: {why}\nreplay: {}", setting.command(point.as_ref())),
    }
    is_good(report.verdict.is_ok())
}

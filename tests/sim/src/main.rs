//! The simulator: whole clusters of the product's own code in one process and one thread, under a seed.
//!
//! `sim --seed N` runs one seed; the same seed does the same. `sim --seeds COUNT` runs many, each in a process of its own. A run
//! that fails prints the command that repeats it. See `tests/sim/README.md`.

mod bugs;
mod host;
mod net;
mod plan;
mod run;
mod storm;
mod sweep;
mod taps;
mod weather;
mod witness;
mod work;

use std::process::ExitCode;

use clap::Parser;

use self::bugs::Planted;

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
    /// What to log, as in `info` or `flotilla_node=debug`
    #[arg(long, default_value = "off")]
    log: String,
}

/// The seed of the command line. It is wanted before anything else: the first hash table asks for chance.
fn seed() -> Option<u64> {
    let mut words = std::env::args().skip_while(|word| word != "--seed").skip(1);
    words.next()?.parse().ok()
}

fn main() -> ExitCode {
    if let Some(seed) = seed() {
        taps::enter(seed);
    }
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(arguments.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
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
    println!(
        "seed {seed} trace {:016x} simulated {:.1} healed {:.1} faults {}",
        report.trace,
        report.simulated.as_secs_f64(),
        report.healed.as_secs_f64(),
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

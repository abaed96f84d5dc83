//! Crash points of moves, spread evenly over all that there are; `cargo sim --crash-points move` and `slots` run every one.

use std::process::{Command, Stdio};

/// Points of each scenario.
const POINTS: &str = "36";
/// Points under which a planted bug must be found.
const PLANTED: &str = "6";
/// More steps than any node makes.
const NEVER: &str = "1000000";

fn sim(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let output = match command.args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(why) => return (false, format!("the simulator does not run: {why}")),
    };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), told + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_power_cut_at_any_step_of_a_move_loses_nothing_and_the_move_is_made() {
    for scenario in ["move", "slots"] {
        let (is_good, told) = sim(&["--crash-points", scenario, "--points", POINTS]);
        println!("{}", told.lines().last().unwrap_or_default());
        assert!(is_good, "{told}");
        assert!(told.contains(&format!("{POINTS} crash points")), "{told}");
    }
}

#[test]
fn a_cut_that_never_comes_is_a_failure() {
    for (scenario, node) in [("move", "node1"), ("slots", "node1"), ("move", "node9")] {
        let (is_good, told) = sim(&["--crash-points", scenario, "--node", node, "--at", NEVER]);
        let why = if node == "node9" { "there is no node9" } else { "nothing was cut" };
        assert!(
            !is_good && told.contains(why) && told.contains("replay: cargo sim --crash-points"),
            "{told}"
        );
    }
}

#[test]
fn a_point_does_the_same_twice() {
    let point = ["--crash-points", "move", "--node", "node1", "--at", "40", "--keeps", "some"];
    let (first, second) = (sim(&point), sim(&point));
    assert!(first.0 && first.1.contains(" trace "), "{first:?}");
    assert_eq!(first, second);
}

#[test]
fn crash_points_find_a_planted_bug() {
    let (is_good, told) = sim(&["--crash-points", "slots", "--points", PLANTED, "--bug", "no-sync"]);
    assert!(!is_good && told.contains("invariant synced-stays"), "the bug got past the judges:\n{told}");
}

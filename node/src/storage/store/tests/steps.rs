//! A crash at every step: a store works on a disk that stops after the first, the second, the third … call that changes
//! something, loses its power and is opened again. Between any two steps of sealing, building graphs, merging, linking and
//! committing manifests, what is left is the state of a manifest that was committed, whole.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::env::sim::{Cut, Disk};

const COMMANDS: u64 = 18;
const SEAL_EVERY: u64 = 3;

fn states() -> Vec<(Command, Oracle)> {
    let mut dice = Dice::new(21);
    let mut oracle = Oracle::default();
    (1..=COMMANDS)
        .map(|index| {
            let command = if dice.one_in(4) { delete(&mut dice, 4) } else { upsert(&mut dice, 10) };
            oracle.apply(index, &command);
            (command, oracle.clone())
        })
        .collect()
}

/// Works until the disk stops. The index up to which seals were told to be done, and that of the seal under way.
fn work(home: &Path, states: &[(Command, Oracle)]) -> (LogIndex, LogIndex) {
    let (mut done, mut tried) = (0, 0);
    let Ok((store, _)) = Store::open(home, spec(), options()) else { return (0, 0) };
    for (index, (command, _)) in (1..).zip(states) {
        apply(&store, index, command);
        if index % SEAL_EVERY != 0 {
            continue;
        }
        assert!(store.freeze(index, index.to_le_bytes().to_vec()));
        tried = index;
        match store.seal() {
            Ok(sealed) => done = sealed.unwrap(),
            Err(_) => return (done, tried),
        }
        loop {
            match (store.build_graph(&Progress::new()), store.compact(&Progress::new())) {
                (Ok(false), Ok(false)) => break,
                (Ok(_), Ok(_)) => {}
                _ => return (done, tried),
            }
        }
        if index == COMMANDS / 2 && store.link_into(&home.with_extension("links")).is_err() {
            return (done, tried);
        }
    }
    (done, tried)
}

fn crash(name: &str, after: u64, cut: Cut, states: &[(Command, Oracle)]) -> bool {
    let disk = Disk::mount(PathBuf::from(format!("/simulated/steps-{name}")), after);
    let home = disk.root().join("p");
    disk.stop_after(after);
    let (done, tried) = work(&home, states);
    let is_over = disk.counts().changes < after;
    disk.cut(cut);
    let context = format!("{cut:?} after step {after}");
    let (store, restored) =
        Store::open(&home, spec(), options()).unwrap_or_else(|why| panic!("{context}: {why}"));
    assert!(
        (done..=tried).contains(&restored.applied),
        "{context}: {} of {done}..={tried}",
        restored.applied
    );
    let empty = Oracle::default();
    let state = restored.applied.checked_sub(1).map_or(&empty, |at| &states[at as usize].1);
    compare(&store.view(), state, &mut Dice::new(after));
    store.verify().unwrap_or_else(|why| panic!("{context}: {why}"));
    // What was half done can be done again.
    while store.build_graph(&Progress::new()).unwrap() || store.compact(&Progress::new()).unwrap() {}
    compare(&store.view(), state, &mut Dice::new(after));
    drop(store);
    disk.remove();
    is_over
}

#[test]
fn a_power_cut_after_any_step_leaves_a_committed_state() {
    let states = Arc::new(states());
    let sweep = |name: &'static str, cut: Cut, from: u64, each: usize| {
        let states = states.clone();
        move || {
            let last = (from..).step_by(each).find(|after| crash(name, *after, cut, &states));
            assert!(last.unwrap() > 500, "{last:?} steps: the sweep meets all of it");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(sweep("clean", Cut::Clean, 1, 3));
        scope.spawn(sweep("torn", Cut::Torn, 2, 3));
    });
}

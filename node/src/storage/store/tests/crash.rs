//! What a crash leaves behind, step by step.

use std::fs;

use super::*;
use crate::storage::manifest::MANIFEST;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("seg-")).collect();
    names.sort();
    names
}

/// Feeds commands, freezing and sealing after every `each`; returns what is there after each command.
fn fill(store: &Store, dice: &mut Dice, commands: u64, each: u64) -> Vec<Oracle> {
    let mut states = vec![Oracle::default()];
    for index in 1..=commands {
        let command = if dice.one_in(4) { delete(dice, 4) } else { upsert(dice, 10) };
        let mut oracle = states[states.len() - 1].clone();
        assert_eq!(apply(store, index, &command), oracle.apply(index, &command));
        states.push(oracle);
        if index % each == 0 {
            assert!(store.freeze(index, index.to_le_bytes().to_vec()));
            assert_eq!(store.seal().unwrap(), Some(index));
        }
    }
    states
}

/// The folder as it was after some step, opened: the state at the manifest's index, and nothing else on disk.
fn assert_restores(left: &Path, index: LogIndex, states: &[Oracle], dice: &mut Dice) {
    let (store, restored) = open(left);
    assert_eq!(restored.applied, index);
    compare(&store.view(), &states[index as usize], dice);
    store.verify().unwrap();
    let named =
        store.state.lock().sealed.iter().map(|s| format!("seg-{}", s.number())).collect::<BTreeSet<_>>();
    assert_eq!(segments(left).into_iter().collect::<BTreeSet<_>>(), named);
    assert!(!left.join(format!("{MANIFEST}.new")).exists());
    // Whatever was half done can be done again.
    while store.compact(&Progress::new()).unwrap() || store.build_graph(&Progress::new()).unwrap() {}
    compare(&store.view(), &states[index as usize], dice);
}

#[test]
fn a_crash_around_the_manifest_of_a_seal() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(5));
    let home = dir.path().join("p");
    let (store, _) = open(&home);
    let states = fill(&store, &mut dice, 12, 4);
    drop(store);
    let whole = fs::read(home.join(MANIFEST)).unwrap();
    assert_restores(&home, 12, &states, &mut dice);

    // The folder stands, the manifest does not yet; a staged one may lie there, whole or cut.
    let (home, mut dice) = (dir.path().join("q"), Dice::new(5));
    let (store, _) = open(&home);
    let _ = fill(&store, &mut dice, 8, 4);
    let before = fs::read(home.join(MANIFEST)).unwrap();
    drop(store);
    for (n, staged) in [None, Some(&whole[..]), Some(&whole[..whole.len() / 2])].into_iter().enumerate() {
        let left = dir.path().join(format!("left-{n}"));
        copy(&dir.path().join("p"), &left);
        copy(&home, &left);
        fs::write(left.join(MANIFEST), &before).unwrap();
        if let Some(staged) = staged {
            fs::write(left.join(format!("{MANIFEST}.new")), staged).unwrap();
        }
        assert_restores(&left, 8, &states, &mut Dice::new(n as u64));
    }
}

#[test]
fn a_crash_around_the_manifest_of_a_compaction() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(6));
    let home = dir.path().join("p");
    let (store, _) = open(&home);
    let states = fill(&store, &mut dice, 16, 4);
    let before = fs::read(home.join(MANIFEST)).unwrap();
    // The view keeps the folders that are merged.
    let view = store.view();
    let had = segments(&home);
    assert!(store.compact(&Progress::new()).unwrap());
    assert!(segments(&home).len() > had.len(), "merged folders stay while they are read");
    let left = dir.path().join("before");
    copy(&home, &left);
    fs::write(left.join(MANIFEST), before).unwrap();
    assert_restores(&left, 16, &states, &mut dice);
    let left = dir.path().join("after");
    copy(&home, &left);
    assert_restores(&left, 16, &states, &mut dice);
    // Without the view they go with the next step.
    compare(&view, &states[16], &mut dice);
    drop(view);
    store.sweep();
    assert!(segments(&home).len() < had.len());
}

#[test]
fn a_graph_that_no_manifest_names_is_not_read() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(8));
    let home = dir.path().join("p");
    let (store, _) = open(&home);
    let states = fill(&store, &mut dice, 14, 14);
    let before = fs::read(home.join(MANIFEST)).unwrap();
    assert!(store.build_graph(&Progress::new()).unwrap());
    drop(store);
    let folder = home.join(&segments(&home)[0]);
    fs::copy(folder.join("graph.0"), folder.join("graph.0.new")).unwrap();
    assert!(open(&home).0.view().segment(0).unwrap().is_indexed("a"));
    assert!(!folder.join("graph.0.new").exists());
    fs::write(home.join(MANIFEST), before).unwrap();
    assert!(!open(&home).0.view().segment(0).unwrap().is_indexed("a"));
    assert!(!folder.join("graph.0").exists());
    assert_restores(&home, 14, &states, &mut dice);
}

#[test]
fn a_lost_manifest_is_not_an_empty_store() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(9));
    let (store, restored) = open(dir.path());
    assert_eq!(restored, Restored { applied: 0, machine: Vec::new() });
    let _ = fill(&store, &mut dice, 4, 4);
    drop(store);
    fs::remove_file(dir.path().join(MANIFEST)).unwrap();
    let fault = Store::open(dir.path(), spec(), options()).unwrap_err();
    assert!(fault.to_string().contains("MANIFEST"), "{fault}");
    Store::destroy(dir.path()).unwrap();
    assert!(!dir.path().exists());
    fs::create_dir_all(dir.path()).unwrap();
}

#[test]
fn a_cancelled_compaction_leaves_nothing() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(10));
    let (store, _) = open(dir.path());
    let states = fill(&store, &mut dice, 16, 4);
    let had = segments(dir.path());
    let progress = Progress::new();
    progress.cancel();
    assert!(matches!(store.compact(&progress), Err(Fault::Cancelled)));
    assert_eq!(segments(dir.path()), had);
    compare(&store.view(), &states[16], &mut dice);
    assert!(store.compact(&Progress::new()).unwrap(), "the segments are free again");
}

#[test]
fn linked_files_are_a_store_of_the_durable_state() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(12));
    let (store, _) = open(&dir.path().join("p"));
    let states = fill(&store, &mut dice, 13, 4);
    assert!(store.compact(&Progress::new()).unwrap());
    let copy = dir.path().join("copy");
    assert_eq!(store.link_into(&copy).unwrap().0, 12);
    // What happens to the original later does not reach the copy.
    assert!(store.freeze(13, Vec::new()));
    store.seal().unwrap();
    drop(store);
    Store::destroy(&dir.path().join("p")).unwrap();
    assert_restores(&copy, 12, &states, &mut dice);
}

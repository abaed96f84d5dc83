//! One flipped byte in each kind of file, at many places: noticed, or harmless.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::env::faults::{Failure, plant};
use crate::env::fs::Op;

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Asks everything; damage may be reported, panics may not happen.
fn ask_everything(view: &View) -> Result<(), Fault> {
    let mut dice = Dice::new(1);
    for segment in view.segments() {
        for row in 0..segment.rows() + 1 {
            let _ = (segment.key(row), segment.payload(row), segment.version(row), segment.vector("a", row));
        }
        for item in segment.by_key(None) {
            segment.find(&item?.0)?;
        }
        let filter = Compiled::new(&sample::filter(&mut dice, 2), &spec()).unwrap();
        segment.matching(&filter)?;
        for method in [Method::Exact, Method::Graph { ef: 100 }] {
            let query = dice.floats(DIMS);
            let ask = Nearest { vector: "a", query: &query, limit: 5, method, rescored: None, rows: None };
            segment.nearest(&ask, &mut Stats::default())?;
        }
    }
    Ok(())
}

/// Rows that the view hands out are those of the oracle; it may refuse some. Returns how many vectors it refused.
fn compare_handed_out(view: &View, oracle: &Oracle) -> usize {
    let mut refused = 0;
    for segment in view.segments() {
        for row in (0..segment.rows()).filter(|row| segment.is_live(*row)) {
            let record = &oracle.0[&segment.key(row).unwrap()];
            if let Ok(payload) = segment.payload(row) {
                assert_eq!(payload, record.payload);
            }
            if let Ok(stored) = segment.stored(row) {
                assert_eq!(stored, rows(std::slice::from_ref(record)).remove(0));
            }
            for name in ["a", "b"] {
                match segment.vector(name, row) {
                    Ok(vector) => assert_eq!(vector.is_some(), record.vectors.contains_key(name)),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    refused
}

#[test]
fn a_flipped_byte_is_noticed_or_harmless() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(21));
    let (store, _) = open(dir.path());
    let mut oracle = Oracle::default();
    for index in 1..=9 {
        let command = if index % 4 == 0 { delete(&mut dice, 4) } else { upsert(&mut dice, 14) };
        apply(&store, index, &command);
        oracle.apply(index, &command);
        if index == 7 {
            assert!(store.freeze(index, b"machine".to_vec()));
            store.seal().unwrap();
        }
    }
    assert!(store.build_graph(&Progress::new()).unwrap());
    assert!(store.freeze(9, b"machine".to_vec()));
    store.seal().unwrap();
    drop(store);
    let mut all = Vec::new();
    files(dir.path(), &mut all);
    assert!(all.len() > 10);
    let (mut noticed, mut late, mut harmless, mut refused) = (0, 0, 0, 0);
    for path in &all {
        let whole = fs::read(path).unwrap();
        let places = (0..whole.len()).step_by((whole.len() / 24).max(1));
        for place in places {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(path, &bytes).unwrap();
            match Store::open(dir.path(), spec(), options()) {
                Err(_) => noticed += 1,
                Ok((store, _)) => {
                    let asked = ask_everything(&store.view());
                    if store.verify().is_err() {
                        late += 1;
                        refused += compare_handed_out(&store.view(), &oracle);
                    } else {
                        assert!(asked.is_ok(), "{}: {asked:?}", path.display());
                        compare(&store.view(), &oracle, &mut Dice::new(3));
                        harmless += 1;
                    }
                }
            }
            // What was opened may have been mapped: a new file, not the old one overwritten.
            fs::remove_file(path).unwrap();
            fs::write(path, &whole).unwrap();
        }
        // A file that is cut, or gone.
        for len in [0, whole.len() / 2] {
            fs::remove_file(path).unwrap();
            fs::write(path, &whole[..len]).unwrap();
            if let Ok((store, _)) = Store::open(dir.path(), spec(), options()) {
                compare(&store.view(), &oracle, &mut Dice::new(3));
            }
        }
        fs::remove_file(path).unwrap();
        if let Ok((store, _)) = Store::open(dir.path(), spec(), options()) {
            compare(&store.view(), &oracle, &mut Dice::new(3));
        }
        fs::write(path, &whole).unwrap();
    }
    assert!(noticed > 100, "{noticed} noticed, {late} by the full check, {harmless} harmless");
    assert!(refused > 10, "{refused} vectors were refused");
}

#[test]
fn links_that_find_no_space_leave_nothing_behind() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(5));
    let (store, _) = open(&dir.path().join("store"));
    apply(&store, 1, &upsert(&mut dice, 30));
    assert!(store.freeze(1, Vec::new()));
    store.seal().unwrap();
    let into = dir.path().join("copy");
    for (op, times) in [(Op::Link, 1), (Op::Create, 1), (Op::Sync, 1)] {
        let fault = plant(into.display().to_string(), op, Failure::Full, Some(times));
        let refused = store.link_into(&into).unwrap_err();
        assert!(matches!(refused, Fault::Io { is_full: true, .. }), "{refused}");
        assert!(!into.exists() && fault.failed() == 1);
    }
    store.link_into(&into).unwrap();
    assert_eq!(open(&into).0.view().live(), store.view().live());
}

#[test]
fn segments_are_checked_one_after_the_other_and_a_rotten_graph_is_built_again() {
    let (dir, mut dice) = (tempfile::tempdir().unwrap(), Dice::new(6));
    let (store, _) = open(dir.path());
    for index in 1..=2 {
        apply(&store, index, &upsert(&mut dice, 45));
        assert!(store.freeze(index, Vec::new()));
        store.seal().unwrap();
        store.build_graph(&Progress::new()).unwrap();
    }
    let first = store.verify_next(0).unwrap().unwrap();
    let second = store.verify_next(first).unwrap().unwrap();
    assert_eq!(store.verify_next(second).unwrap(), None);
    let graph = dir.path().join(format!("seg-{second}/graph.0"));
    let mut bytes = fs::read(&graph).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&graph).unwrap();
    fs::write(&graph, bytes).unwrap();
    assert_eq!(store.verify_next(first).unwrap(), Some(second));
    let indexed = |store: &Store| store.view().segments().filter(|segment| segment.is_indexed("a")).count();
    assert_eq!(indexed(&store), 1, "taken out");
    assert!(store.build_graph(&Progress::new()).unwrap());
    assert_eq!(indexed(&store), 2, "and built again");
    store.verify().unwrap();
    // What the rows themselves lie in is not mended here.
    let versions = dir.path().join(format!("seg-{second}/versions"));
    let mut bytes = fs::read(&versions).unwrap();
    bytes[3] ^= 1;
    fs::remove_file(&versions).unwrap();
    fs::write(&versions, bytes).unwrap();
    assert!(matches!(store.verify_next(first), Err(Fault::Damaged { file, .. }) if file == versions));
}

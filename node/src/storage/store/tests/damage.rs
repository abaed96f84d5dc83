//! One flipped byte in each kind of file, at many places: noticed, or harmless.

use std::fs;
use std::path::PathBuf;

use super::*;

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
            let ask = Nearest { vector: "a", query: &query, limit: 5, method, rows: None };
            segment.nearest(&ask, &mut Stats::default())?;
        }
    }
    Ok(())
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
    let (mut noticed, mut late, mut harmless) = (0, 0, 0);
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
}

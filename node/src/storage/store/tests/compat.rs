//! Folders that earlier programs wrote open and read as they did then.
//!
//! `tests/compat/storage-v<format>/` is a partition's folder, kept for as long as its format is read. After a change of
//! format, add one more: `cargo test -p flotilla-node --lib -- --ignored write_a_fixture` writes it.

use std::path::PathBuf;

use super::*;

/// The newest format.
const FORMAT: u32 = 1;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/compat/storage-v{format}"))
}

/// The commands that every fixture holds.
fn history(store: Option<&Store>) -> Oracle {
    let (mut dice, mut oracle) = (Dice::new(2_026), Oracle::default());
    for index in 1..=12 {
        let command = if index % 3 == 0 { delete(&mut dice, 5) } else { upsert(&mut dice, 14) };
        oracle.apply(index, &command);
        let Some(store) = store else { continue };
        apply(store, index, &command);
        if index % 6 == 0 {
            assert!(store.freeze(index, b"machine".to_vec()));
            store.seal().unwrap();
            store.build_graph(&Progress::new()).unwrap();
        }
    }
    oracle
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_format_opens() {
    for format in 1..=FORMAT {
        let dir = tempfile::tempdir().unwrap();
        copy(&fixture(format), dir.path());
        let (store, restored) = open(dir.path());
        assert_eq!(restored, Restored { applied: 12, machine: b"machine".to_vec() });
        store.verify().unwrap();
        assert!(store.view().segments().any(|segment| segment.is_indexed("a")));
        compare(&store.view(), &history(None), &mut Dice::new(u64::from(format)));
    }
}

#[test]
#[ignore = "writes the fixture of a new format"]
fn write_a_fixture() {
    let home = fixture(FORMAT);
    assert!(!home.exists(), "{} is written once and kept", home.display());
    let (store, _) = open(&home);
    history(Some(&store));
}

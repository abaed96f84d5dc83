//! The doors for fuzzing of what a partition's folder holds: the manifest, the segments, and a stored payload.

// What a door needs to begin with is there, or nothing can be tried.
#![allow(clippy::expect_used)]

mod folder;

use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::Compiled;
#[cfg(test)]
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Key;
use flotilla_proto::schema::CollectionSpec;

use super::glimpse::Glimpse;
use super::manifest::{self, MANIFEST, Manifest};
use super::row::{StoredRow, decode_payload, encode_payload};
use super::sample::{self, Dice};
use super::store::{Options, Store};
use crate::fuzz::Input;

#[cfg(test)]
pub use folder::samples;
pub use folder::segment;

/// Components of the larger vector of the sample.
const DIMS: usize = 8;

/// An even first byte: the file as it might lie there. An odd one: its body, under a checksum that fits.
///
/// **Promise.** It is read or named as damaged, without a panic. What was read and is written again reads the same. A store
/// opens with it only if every segment it names is there.
pub fn manifest(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (is_body, folder) = (input.byte() % 2 == 1, crate::fuzz::folder());
    let (dir, bytes) = (folder.path(), input.rest());
    if is_body {
        manifest::KIND.write(&dir.join(MANIFEST), bytes).expect("the folder is ours");
    } else {
        std::fs::write(dir.join(MANIFEST), bytes).expect("the folder is ours");
    }
    let Ok(read) = Manifest::read(dir) else {
        assert!(open(dir).is_err(), "a manifest that does not read opens no store");
        return;
    };
    for segment in &read.segments {
        let dead = segment.tombstones(dir);
        assert!(dead.is_err() || dead.is_ok_and(|dead| dead.max().is_none_or(|row| row < segment.rows)));
    }
    match open(dir) {
        Ok(store) => {
            assert!(read.segments.is_empty() && store.view().live() == 0);
            assert_eq!((store.durable_index(), &*store.durable_machine()), (read.applied, &read.machine));
        }
        Err(_) => assert!(!read.segments.is_empty(), "nothing is missing"),
    }
    read.write(dir).expect("the folder is ours");
    assert_eq!(Manifest::read(dir).ok(), Some(read));
}

/// Opens the sample's folder.
fn open(dir: &Path) -> Result<Store, super::Fault> {
    let options = Options { seal_rows: 40, graph_rows_min: 25, index_threads: 1, ..Options::default() };
    Store::open(dir, Arc::new(spec()), options).map(|(store, _)| store)
}

/// A seed for a filter, then what may be a stored payload.
///
/// **Promise.** It decodes or is refused, without a panic, however deep it claims to nest. What decodes is the same after it
/// was encoded again, and a filter judges it from its bytes exactly as it judges the decoded whole.
pub fn payload(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let spec = spec();
    let filter = sample::filter(&mut Dice::new(u64::from(input.byte())), 2);
    let filter = Compiled::new(&filter, &spec).expect("the sample's filters fit its collection");
    let (key, bytes) = (Key::Number(4), input.rest());
    let judged = Glimpse::of(&filter).matches(&key.to_bytes(), bytes);
    if let Ok(payload) = decode_payload(bytes) {
        assert_eq!(judged.ok(), Some(filter.matches(&key, &payload)), "{filter:?} of {payload:?}");
        let stored = encode_payload(&payload).expect("what was decoded encodes");
        let again = decode_payload(&stored).expect("what was encoded decodes");
        assert_eq!(encode_payload(&again).ok(), Some(stored));
    }
}

/// The sample's collection.
pub fn spec() -> CollectionSpec {
    sample::spec(DIMS as u32)
}

/// Rows of the sample's collection.
pub fn rows(count: usize) -> Vec<StoredRow> {
    let (spec, mut dice) = (spec(), Dice::new(21));
    let row = |n: usize| {
        let key = if n.is_multiple_of(2) { (n as u64).into() } else { format!("key-{n}").into() };
        let record = sample::record(&mut dice, key, DIMS);
        StoredRow::from_domain(&record, &spec).expect("the sample's records fit its collection")
    };
    (0..count).map(row).collect()
}

/// A filter of some depth, for the corpora.
#[cfg(test)]
pub fn some_filter() -> Filter {
    sample::filter(&mut Dice::new(3), 3)
}

/// Stored payloads, for the corpus.
#[cfg(test)]
pub fn payload_samples() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(5);
    (0..8)
        .map(|n| [vec![n], encode_payload(&sample::payload(&mut dice)).unwrap().to_vec()].concat())
        .collect()
}

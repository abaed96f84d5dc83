//! A partition's folder with one sealed segment and its graph, as it was written and as it might be found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use flotilla_proto::filter::Compiled;

use super::{DIMS, open, rows, spec};
use crate::fuzz::Input;
use crate::index::{Progress, Stats};
use crate::storage::manifest::Manifest;
use crate::storage::sample::{self, Dice};
use crate::storage::sealed::{Entry, HEADER, HEADER_KIND, Header};
use crate::storage::store::segment_dir;
use crate::storage::{Fault, Method, Nearest, View};

/// Rows of the sample, some of which are deleted.
const ROWS: usize = 32;

/// The files of the sample by path, and what it answers.
struct Pristine {
    files: BTreeMap<String, Vec<u8>>,
    answers: String,
    number: u64,
}

/// The first byte says what is done to the sample's files. 0: they are damaged. 1: they are damaged and the header's
/// checksums are made to fit again, all but the payload index's. 2: the header is replaced by the body that follows.
///
/// **Promise.** The store opens or names the damage, and answers or names it, without a panic. Damage that changes an answer
/// is found by the full check, unless the checksums were made to fit. A folder of which nothing is left is a new one.
pub fn segment(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.byte() % 3;
    let pristine = pristine();
    let folder = crate::fuzz::folder();
    let dir = folder.path();
    let mut files = pristine.files.clone();
    if what < 2 {
        while !input.is_empty() {
            damage(&mut files, &mut input);
        }
    }
    if files.is_empty() {
        return;
    }
    write(dir, &files);
    let home = segment_dir(dir, pristine.number);
    match what {
        0 => {}
        1 => restamp(dir, &home),
        _ => HEADER_KIND.write(&home.join(HEADER), input.rest()).expect("the folder is ours"),
    }
    if let Ok(header) = Header::read(&home) {
        header.write(&home).expect("the folder is ours");
        assert_eq!(Header::read(&home).ok(), Some(header));
    }
    let Ok(store) = open(dir) else {
        assert!(files != pristine.files || what == 2, "what was not damaged opens");
        return;
    };
    let answers = ask(&store.view());
    if store.verify().is_ok() && what == 0 {
        assert_eq!(answers.ok().as_ref(), Some(&pristine.answers), "the full check found nothing");
    }
}

/// Bits, bytes, ranges or files that are not what was written.
fn damage(files: &mut BTreeMap<String, Vec<u8>>, input: &mut Input<'_>) {
    let (what, which, at, value) = (input.byte(), input.byte(), input.short(), input.byte());
    let Some(name) = files.keys().nth(usize::from(which) % files.len().max(1)).cloned() else { return };
    let Some(bytes) = files.get_mut(&name).filter(|bytes| !bytes.is_empty()) else { return };
    let at = usize::from(at) % bytes.len();
    let end = (at + usize::from(value) + 1).min(bytes.len());
    match what % 8 {
        0 | 1 => bytes[at] ^= 1 << (value % 8),
        2 => bytes[at] = value,
        3 => bytes.truncate(at),
        4 => bytes[at..end].fill(if value % 2 == 0 { 0 } else { 0xff }),
        5 => bytes.extend(vec![value; usize::from(value)]),
        6 => bytes[at..end].copy_from_slice(&vec![value; end - at]),
        _ => drop(files.remove(&name)),
    }
}

fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(dir)).expect("the folder is ours");
        std::fs::write(path, bytes).expect("the folder is ours");
    }
}

/// Lengths and checksums of the damaged files, as if they had been written so.
fn restamp(dir: &Path, home: &Path) {
    if let Ok(mut header) = Header::read(home) {
        for entry in header.files.iter_mut().filter(|entry| !entry.name.contains('/')) {
            if let Ok(found) = Entry::of(home, &entry.name) {
                *entry = found;
            }
        }
        header.write(home).expect("the folder is ours");
    }
    if let Ok(mut manifest) = Manifest::read(dir) {
        for graph in manifest.segments.iter_mut().flat_map(|segment| &mut segment.graphs) {
            if let Ok(found) = Entry::of(home, &graph.file.name) {
                graph.file = found;
            }
        }
        manifest.write(dir).expect("the folder is ours");
    }
}

/// Everything that a read may ask, as one text.
fn ask(view: &View) -> Result<String, Fault> {
    let (mut told, mut dice) = (String::new(), Dice::new(1));
    let mut tell = |what: &dyn std::fmt::Debug| write!(told, "{what:?} ").expect("a text takes more");
    for segment in view.segments() {
        for row in 0..segment.rows().min(4 * ROWS as u32) + 1 {
            if segment.is_live(row) {
                tell(&(segment.key(row)?, segment.version(row), segment.payload(row)?));
                tell(&(segment.vector("a", row)?, segment.vector("b", row)?, segment.stored(row)?));
            }
        }
        for item in segment.by_key(None) {
            let (key, row) = item?;
            tell(&(row, segment.find(&key)?));
        }
        for depth in 0..3 {
            let filter = Compiled::new(&sample::filter(&mut dice, depth), &spec());
            let passing = segment.matching(&filter.expect("the sample's filters fit its collection"))?;
            tell(&passing.iter().collect::<Vec<u32>>());
            for (vector, dims) in [("a", DIMS), ("b", 2)] {
                for method in [Method::Exact, Method::Codes, Method::Graph { ef: 100 }] {
                    let query = dice.floats(dims);
                    let ask = Nearest {
                        vector,
                        query: &query,
                        limit: 5,
                        method,
                        rescored: None,
                        rows: Some(&passing),
                    };
                    tell(&segment.nearest(&ask, &mut Stats::default())?);
                    let ask = Nearest { rows: None, ..ask };
                    tell(&segment.nearest(&ask, &mut Stats::default())?);
                }
            }
        }
    }
    Ok(told)
}

fn pristine() -> &'static Pristine {
    static PRISTINE: OnceLock<Pristine> = OnceLock::new();
    PRISTINE.get_or_init(|| {
        let folder = crate::fuzz::folder();
        let dir = folder.path();
        let store = open(dir).expect("an empty store");
        store.upsert(1, rows(ROWS)).expect("rows in memory");
        store.publish(1);
        assert!(store.freeze(1, b"machine".to_vec()));
        store.seal().expect("a segment");
        store.delete(2, &[4.into(), "key-7".into()]).expect("rows in memory");
        store.publish(2);
        assert!(store.freeze(2, b"machine".to_vec()));
        store.seal().expect("a manifest");
        store.build_graph(&Progress::new()).expect("a graph");
        let answers = ask(&store.view()).expect("nothing is damaged");
        let number = Manifest::read(dir).expect("nothing is damaged").segments[0].number;
        let mut files = BTreeMap::new();
        read(dir, "", &mut files);
        Pristine { files, answers, number }
    })
}

fn read(dir: &Path, inside: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir.join(inside)).expect("the folder is ours") {
        let name = entry.expect("the folder is ours").file_name().to_string_lossy().into_owned();
        let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
        match dir.join(&path).is_dir() {
            true => read(dir, &path, files),
            false => drop(files.insert(path.clone(), std::fs::read(dir.join(&path)).expect("a file"))),
        }
    }
}

/// The manifest and the body of the segment's header, for the corpora.
#[cfg(test)]
pub fn samples() -> [Vec<u8>; 2] {
    let pristine = pristine();
    let header = pristine.files.iter().find(|(name, _)| name.ends_with(HEADER)).expect("a segment");
    [pristine.files["MANIFEST"].clone(), header.1[crate::storage::stamped::HEAD..].to_vec()]
}

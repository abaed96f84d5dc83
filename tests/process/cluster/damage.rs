//! Bits rot on one node's disk, file class by file class: the node says so, the others serve, and it is made whole again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api;
use flotilla_tests::cluster::Shape;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::wait::eventually;

use super::{Scene, none_failed};

const BULK: &str = "bulk";
const DIMS: usize = 16;
const RECORDS: u64 = 1_500;
/// How often a class is rotted until it is a file that the node still needs.
const TRIES: usize = 4;
/// How long a node may take to find a rotted file and to be rebuilt.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Small segments, looked at all the time.
const SETTINGS: &str = "storage:\n  seal_rows: 200\n  verify_seconds: 1\nreplication:\n  compare_seconds: 2\n\
                        log:\n  lanes: 2\n  segment_bytes: 1048576\nraft:\n  entries_kept: 20\n";

/// A class of files, by the end of their paths below the node's folder.
#[derive(Clone, Copy, Debug)]
enum Rot {
    Vectors,
    Keys,
    Payload,
    Manifest,
    Log,
    Catalogue,
}

impl Rot {
    fn is_in(self, path: &str) -> bool {
        match self {
            Rot::Vectors => path.contains("/seg-") && path.ends_with("vectors.0.f32"),
            Rot::Keys => path.contains("/seg-") && path.ends_with("/keys"),
            Rot::Payload => path.contains("/seg-") && path.ends_with("/payload/rows"),
            Rot::Manifest => path.contains("/partitions/") && path.contains("MANIFEST"),
            // The lane of the odd groups: the meta group is the other's.
            Rot::Log => path.contains("/lane-1/") && path.ends_with(".wal"),
            Rot::Catalogue => path.contains("/meta/") && path.ends_with("/db"),
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Flips one bit in the middle of what one file of the class holds; which file was it? One that was only just made holds nothing.
fn rot(folder: &Path, class: Rot) -> PathBuf {
    let mut all = Vec::new();
    files(folder, &mut all);
    all.retain(|path| class.is_in(&path.display().to_string()));
    all.sort();
    let full = all.into_iter().find_map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        Some((path, bytes, last + 1))
    });
    let (path, mut bytes, used) = full.unwrap_or_else(|| panic!("no file of class {class:?}"));
    bytes[used / 2] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Whether the file was of a segment that the node was only about to have, or had just got rid of, when it was killed: then
/// nobody reads it.
fn is_unnamed(log: &str, path: &Path) -> bool {
    let is_segment =
        |folder: &&Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-"));
    let Some(segment) = path.ancestors().find(is_segment).map(|folder| folder.display().to_string()) else {
        return false;
    };
    let says = "removes a segment that no manifest names";
    log.lines().any(|line| line.contains(says) && line.trim_end().ends_with(&segment))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_files_rot_is_made_whole_by_the_others() {
    let shape = Shape { settings: SETTINGS, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::damage::", shape).await;
    let spec = api::collection(BULK, DIMS as u32, vec![("row", v1::FieldType::Integer)]);
    scene.create(v1::CollectionSpec { partitions: 3, ..spec }).await;
    let client = scene.cluster.client().await.unwrap();
    let row =
        |n: u64| api::record(api::number_key(n), unit_vector(n, DIMS), vec![("row", api::int(n as i64))]);
    for first in (0..RECORDS).step_by(100) {
        client.put(BULK, (first..first + 100).map(row).collect()).await.unwrap();
    }
    let load = scene.load().await;
    let place = 2;
    for class in [Rot::Vectors, Rot::Keys, Rot::Payload, Rot::Manifest, Rot::Log, Rot::Catalogue] {
        // What rotted is found when it is read next. Until then the digest of what is stored differs, and is to.
        let whole = eventually("what rotted is whole again", WHOLE_WITHIN, async || {
            scene.cluster.verified(BULK).await.inspect_err(|why| println!("before {class:?}: {why:?}")).ok()
        });
        whole.await.unwrap_or_else(|why| panic!("before {class:?}: {why:?}"));
        for _ in 0..TRIES {
            scene.cluster.kill9(place);
            let path = rot(scene.cluster.node(place).data(), class);
            println!("{class:?}: {}", path.display());
            scene.cluster.restart(place).await.unwrap_or_else(|why| panic!("after {class:?}: {why:?}"));
            scene.progress(&load, 100).await;
            if !is_unnamed(&scene.cluster.node(place).log(), &path) {
                break;
            }
        }
    }
    scene.cluster.caught_up(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));
    scene.cluster.verified(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(client.total(BULK, None).await.unwrap(), RECORDS);
    let log = scene.cluster.node(place).log();
    let quarantined = log.matches("quarantine").count();
    println!("the node's log speaks of quarantine {quarantined} times");
    assert!(quarantined >= 4, "{log}");
    none_failed(&scene.judge(load).await);
}

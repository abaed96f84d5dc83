//! The power goes, a disk dies, a disk is full: what was acknowledged is there, and nothing else is claimed.
//!
//! Disks are file systems of their own (`flotilla_tests::cluster::disk`); where the machine cannot have one, the test says
//! so and tests nothing.

use std::time::Duration;

use flotilla_tests::cluster::Shape;
use flotilla_tests::cluster::disk::Disk;
use flotilla_tests::load;
use flotilla_tests::wait::eventually;

use super::{COLLECTION, PARTITIONS, PROGRESS_WITHIN, Scene, none_failed, rounds};

const DISK_MIB: u64 = 1_024;
/// Small log files, so that a disk is soon full, and segments that are sealed while the test looks; no reserve, so that it is full.
const SETTINGS: &str =
    "storage:\n  seal_rows: 200\n  reserve_bytes: 0\nlog:\n  lanes: 2\n  segment_bytes: 262144\n";
const VICTIM: usize = 2;
/// A collection besides the clients'.
const OTHER: &str = "other";

fn disk(mib: u64) -> Option<Disk> {
    Disk::new(mib).inspect_err(|why| println!("SKIPPED: no disk of our own here: {why}")).ok()
}

fn with_disk(disk: &Disk) -> Shape {
    let elsewhere = [(VICTIM, disk.path().join("node"))].into();
    Shape { settings: SETTINGS, elsewhere, ..Shape::of(3, 0, 2) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_loses_power_loses_nothing_acknowledged() {
    let Some(disk) = disk(DISK_MIB) else { return };
    let mut scene = Scene::set("cluster::power::a_node", with_disk(&disk)).await;
    let load = scene.load().await;
    for _ in 0..rounds(3) {
        scene.progress(&load, 200).await;
        scene.cluster.power_cut(&disk, &[VICTIM]).unwrap();
        scene.cluster.restart(VICTIM).await.unwrap();
    }
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_that_lose_power_at_once_lose_nothing_acknowledged() {
    let Some(disk) = disk(DISK_MIB) else { return };
    let elsewhere = (0..3).map(|place| (place, disk.path().join(format!("node-{place}")))).collect();
    let shape = Shape { settings: SETTINGS, elsewhere, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::power::all", shape).await;
    scene.work.deadline = Duration::from_secs(2);
    let load = scene.load().await;
    for _ in 0..rounds(3) {
        scene.progress(&load, 300).await;
        scene.cluster.power_cut(&disk, &[0, 1, 2]).unwrap();
        scene.cluster.restart_all().await.unwrap();
        scene.cluster.led(COLLECTION, &[]).await.unwrap();
    }
    scene.progress(&load, 200).await;
    scene.judge(load).await;
}

/// Its process lives on: it must not acknowledge what it cannot sync, and the others must not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_dies_under_a_node_fails_no_call() {
    let Some(disk) = disk(DISK_MIB) else { return };
    let mut scene = Scene::set("cluster::power::dies", with_disk(&disk)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    scene.cluster.disk_dies(&disk, VICTIM).unwrap();
    scene.cluster.led(COLLECTION, &[VICTIM]).await.unwrap();
    scene.progress(&load, 300).await;
    scene.cluster.kill9(VICTIM);
    disk.replug().unwrap();
    scene.cluster.restart(VICTIM).await.unwrap();
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_is_waited_for() {
    let Some(disk) = disk(64) else { return };
    let scene = Scene::set("cluster::power::full", with_disk(&disk)).await;
    scene.create(load::collection(OTHER, PARTITIONS)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    disk.fill().unwrap();
    // More than the log files that were begun already can hold.
    scene.progress(&load, 3_000).await;
    // Its leaderships go to who has space: every partition takes writes although the disk is still full.
    let client = scene.cluster.client().await.unwrap();
    eventually("every partition takes writes", PROGRESS_WITHIN, async || {
        client.put(OTHER, (0..100).map(|key| load::record(key, key)).collect()).await.ok()
    })
    .await
    .unwrap();
    let log = scene.cluster.node(VICTIM).log();
    assert!(log.contains("waits for space"), "{log}");
    assert!(!log.contains("is quarantined"), "what lacks space is not damaged: {log}");
    // It goes on by itself once there is space.
    disk.free().unwrap();
    scene.progress(&load, 200).await;
    let history = scene.judge(load).await;
    // Until then they refuse writes and say why; nothing else fails.
    let is_told = |error: &String| error.contains("ResourceExhausted") && error.contains("No space left");
    let other =
        history.failures().find(|call| call.freshness.is_some() || !call.error.as_ref().is_some_and(is_told));
    assert!(other.is_none(), "{}", other.unwrap());
}

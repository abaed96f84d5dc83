//! The call that makes bytes durable fails once, or takes long: nothing is acknowledged that is not on disk, and who waits
//! for a slow disk waits, with bounded memory.
//!
//! `strace` strikes the calls of running nodes (`flotilla_tests::cluster::tracer`); where it cannot, the test says so and
//! tests nothing.

use std::time::Duration;

use flotilla_tests::cluster::Shape;
use flotilla_tests::cluster::disk::Disk;
use flotilla_tests::cluster::tracer::{SYNCS, Tracer};
use flotilla_tests::wait::eventually;
use rand::Rng as _;

use super::{COLLECTION, Scene, none_failed};

/// Each thread's next call fails, and those after it would be fine.
const ONCE: &str = "error=EIO:when=1";
const STRUCK_WITHIN: Duration = Duration::from_secs(20);
/// A disk that is slow for ordinary, in microseconds.
const SLOW: std::ops::Range<u64> = 50_000..300_000;
/// What a node may come to need while its disk is slow.
const GROWTH_MIB_MAX: u64 = 128;
const DISK_MIB: u64 = 1_024;

/// A tracer at this node, or the reason why there is none.
fn strike(scene: &Scene, place: usize, what: &str) -> Option<Tracer> {
    let process = scene.cluster.node(place).process().unwrap();
    let attached = Tracer::attach(process, SYNCS, what);
    attached.inspect_err(|why| println!("SKIPPED: no calls can be made to fail here: {why}")).ok()
}

async fn has_struck(tracer: &Tracer) {
    let struck = eventually("a call was struck", STRUCK_WITHIN, async || {
        Some(tracer.struck()).filter(|struck| *struck > 0)
    });
    struck.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_sync_fails_acknowledges_nothing_more() {
    let mut scene = Scene::set("cluster::sync::fails", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let victim = scene.cluster.busiest(COLLECTION).await.unwrap();
    let Some(tracer) = strike(&scene, victim, ONCE) else { return };
    has_struck(&tracer).await;
    scene.cluster.led(COLLECTION, &[victim]).await.unwrap();
    println!("{} calls of the leader failed, and others lead", tracer.detach().unwrap());
    // Its disk is as good as new: that it could be synced now is no reason to believe what was written before.
    scene.progress(&load, 300).await;
    let leads =
        scene.cluster.leaders().await.into_values().any(|node| node == scene.cluster.node(victim).id());
    assert!(!leads, "it leads again without a look at its log");
    let log = scene.cluster.node(victim).log();
    assert!(log.contains("Input/output error"), "it says nothing of it: {log}");
    scene.cluster.kill9(victim);
    scene.cluster.restart(victim).await.unwrap();
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

/// What a failed sync did not write is truly gone: the power goes as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_no_disk_has() {
    let disk = match Disk::new(DISK_MIB) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED: no disk of our own here: {why}"),
    };
    let elsewhere = (0..3).map(|place| (place, disk.path().join(format!("node-{place}")))).collect();
    let mut scene = Scene::set("cluster::sync::nowhere", Shape { elsewhere, ..Shape::of(3, 0, 2) }).await;
    scene.work.deadline = Duration::from_secs(2);
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let tracers: Vec<Tracer> = (0..3).filter_map(|place| strike(&scene, place, "error=EIO")).collect();
    if tracers.len() < 3 {
        return;
    }
    // Two of three are no majority any more; the third may then have nothing to write.
    eventually("two nodes have failed calls", STRUCK_WITHIN, async || {
        let struck = tracers.iter().filter(|tracer| tracer.struck() > 0).count();
        (struck >= 2).then_some(())
    })
    .await
    .unwrap();
    // Whoever acknowledges now has it nowhere.
    eventually("calls fail", STRUCK_WITHIN, async || {
        let failed = scene.recorder.note(|history| history.failures().count());
        (failed >= scene.work.clients).then_some(())
    })
    .await
    .unwrap();
    disk.cut().unwrap();
    (0..3).for_each(|place| scene.cluster.kill9(place));
    let struck: usize = tracers.into_iter().map(|tracer| tracer.detach().unwrap()).sum();
    println!("{struck} calls failed");
    disk.replug().unwrap();
    scene.cluster.restart_all().await.unwrap();
    scene.cluster.led(COLLECTION, &[]).await.unwrap();
    scene.progress(&load, 200).await;
    scene.judge(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_are_waited_for_with_bounded_memory() {
    let mut scene = Scene::set("cluster::sync::slow", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let before: Vec<u64> = (0..3).map(|place| resident_mib(&scene, place)).collect();
    // Two of three: no write is acknowledged without one of them.
    let mut tracers = Vec::new();
    for place in [0, 1] {
        let delay = scene.draw.random_range(SLOW);
        let Some(tracer) = strike(&scene, place, &format!("delay_exit={delay}")) else { return };
        println!("node {place}: each sync takes {delay} us longer");
        tracers.push(tracer);
    }
    scene.progress(&load, 150).await;
    for (place, before) in before.into_iter().enumerate() {
        let now = resident_mib(&scene, place);
        assert!(now < before + GROWTH_MIB_MAX, "node {place} grew from {before} to {now} MiB");
    }
    for tracer in tracers {
        let struck = tracer.detach().unwrap();
        println!("{struck} calls were slow");
        assert!(struck > 0);
    }
    scene.progress(&load, 200).await;
    let history = scene.judge(load).await;
    let other = history
        .failures()
        .find(|call| !call.error.as_ref().is_some_and(|why| why.starts_with("DeadlineExceeded")));
    assert!(other.is_none(), "{}", other.unwrap());
}

/// MiB of memory that a node's process has.
fn resident_mib(scene: &Scene, place: usize) -> u64 {
    let process = scene.cluster.node(place).process().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

//! A process that stands still keeps its connections, its lease and its opinions, and then goes on as if nothing had been.

use std::time::Duration;

use flotilla_tests::cluster::Shape;

use super::{COLLECTION, Scene, took};

/// Longer than any lease or election.
const STANDSTILL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_comes_back_and_tells_no_old_truths() {
    let scene = Scene::set("cluster::pause::", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    scene.cluster.pause(leader).unwrap();
    let begin = std::time::Instant::now();
    let failover = scene.cluster.failover(COLLECTION, leader).await.unwrap();
    took("until others lead everything, after their leader stopped", failover, Duration::from_secs(10));
    scene.progress(&load, 300).await;
    // Not to wait for something: how long it stands still is the input of this test.
    tokio::time::sleep(STANDSTILL.saturating_sub(begin.elapsed())).await;
    scene.cluster.resume(leader).unwrap();
    scene.progress(&load, 300).await;
    let history = scene.judge(load).await;
    // One call of each client may have been with the node when it stopped.
    let failures = history.failures().count();
    assert!(failures <= scene.work.clients, "{failures} calls failed for one stopped node");
}

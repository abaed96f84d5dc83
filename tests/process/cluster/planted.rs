//! The proof of the proof: a cluster that acknowledges too early must not get past the judges.
//!
//! With `FLOTILLA_TEST_BUG=ack-before-commit`, honoured only by builds with debug assertions, a leader answers an upsert as
//! soon as it has proposed it. Leaders die until an acknowledged write is found missing.

use flotilla_tests::checker;
use flotilla_tests::cluster::Shape;

use super::{COLLECTION, Scene, rounds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_acknowledged_too_early_are_found_lost() {
    let environment = vec![("FLOTILLA_TEST_BUG", "ack-before-commit".to_owned())];
    let shape = Shape { environment, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::planted::", shape).await;
    let load = scene.load().await;
    for round in 1..=rounds(6) {
        scene.progress(&load, 150).await;
        let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
        // Stopped followers keep what the leader has from being copied before it dies.
        let followers: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
        followers.iter().for_each(|place| scene.cluster.pause(*place).unwrap());
        let _ = load.progress(30, std::time::Duration::from_secs(2)).await;
        scene.cluster.kill9(leader);
        followers.iter().for_each(|place| scene.cluster.resume(*place).unwrap());
        scene.cluster.led(COLLECTION, &[leader]).await.unwrap();
        scene.progress(&load, 100).await;
        scene.cluster.restart(leader).await.unwrap();
        if let Err(found) = checker::check(&scene.recorder.history()) {
            println!("found after {round} rounds: {found}");
            return;
        }
    }
    panic!("a cluster that acknowledges before it commits got past the judges");
}

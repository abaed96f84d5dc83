//! An upgrade: every node drains, ends and starts again, one after the other, and no client notices.

use std::time::{Duration, Instant};

use flotilla_tests::cluster::Shape;

use super::{COLLECTION, Scene, none_failed, took};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call() {
    let mut scene = Scene::set("cluster::rolling::", Shape::of(3, 1, 2)).await;
    let load = scene.load().await;
    for place in 0..4 {
        scene.progress(&load, 100).await;
        let begin = Instant::now();
        scene.cluster.terminate(place).await.unwrap();
        took("a drain", begin.elapsed(), Duration::from_secs(20));
        scene.cluster.led(COLLECTION, &[place]).await.unwrap();
        scene.progress(&load, 50).await;
        scene.cluster.restart(place).await.unwrap();
        // As an operator does: the next goes when this one is ready again.
        let address = scene.cluster.node(place).address();
        flotilla_tests::wait::eventually("it is ready", Duration::from_secs(30), async || {
            let page = flotilla_tests::http::get(address, "/readyz").ok()?;
            (page.status == 200).then_some(())
        })
        .await
        .unwrap();
    }
    scene.progress(&load, 100).await;
    none_failed(&scene.judge(load).await);
}

//! Replicas: they join while clients write, catch up, and serve what they were asked to be fresh enough for.

use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::cluster::Shape;
use flotilla_tests::cluster::member::Role;
use flotilla_tests::load::wire_key;
use flotilla_tests::wait::eventually;

use super::{COLLECTION, Scene, none_failed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_joins_under_load_and_serves() {
    let mut scene = Scene::set("cluster::replica::", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 400).await;
    let place = scene.cluster.add(&[Role::Replica]).await.unwrap()[0];
    let replica = scene.cluster.node(place).id();
    eventually("the replica learns every partition", Duration::from_secs(30), async || {
        let placement = scene.cluster.placement(COLLECTION).await.ok()?;
        placement.partitions.iter().all(|p| p.learners.contains(&replica)).then_some(())
    })
    .await
    .unwrap();
    // That it answers is seen here; that its answers are right, in the history.
    for consistency in [v1::Consistency::Any, v1::Consistency::Bounded] {
        serves(&scene, replica, consistency).await;
    }
    scene.progress(&load, 300).await;
    let history = scene.judge(load).await;
    none_failed(&history);
    let leads = scene.cluster.leaders().await.into_values().any(|node| node == replica);
    assert!(!leads, "a replica leads");
}

async fn serves(scene: &Scene, replica: u64, consistency: v1::Consistency) {
    let client = scene.cluster.client().await.unwrap();
    let read = v1::ReadOptions {
        preference: v1::ReadPreference::Replica.into(),
        consistency: consistency.into(),
        max_lag_ms: if consistency == v1::Consistency::Bounded { 5_000 } else { 0 },
        ..Default::default()
    };
    let request = v1::GetRequest {
        collection: COLLECTION.into(),
        keys: (1..=scene.work.keys).map(wire_key).collect(),
        read: Some(read),
        ..Default::default()
    };
    let what = format!("replica {replica} answers a read with {consistency:?}");
    let mut last = String::new();
    let served = eventually(&what, Duration::from_secs(20), async || {
        let answer = client.get(request.clone()).await;
        last = format!("{:?}", answer.as_ref().map(|answer| &answer.coverage));
        answer.ok()?.coverage?.indexes.iter().any(|at| at.node == replica).then_some(())
    });
    served.await.unwrap_or_else(|why| panic!("{why}; the last answer: {last}"));
}

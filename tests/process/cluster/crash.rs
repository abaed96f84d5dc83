//! Processes die: one node, the leader again and again, a router, all nodes at once.

use std::time::Duration;

use flotilla_proto::ids::META_GROUP;
use flotilla_proto::v1;
use flotilla_tests::cluster::Shape;
use flotilla_tests::load::{self, Work};
use rand::Rng as _;

use super::{COLLECTION, Scene, none_failed, rounds, took};

/// A new leader comes within 3 seconds on a machine that is not busy.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_node_is_no_error() {
    let mut scene = Scene::set("cluster::crash::one_dead", Shape::of(3, 1, 2)).await;
    let load = scene.load().await;
    for _ in 0..rounds(2) {
        scene.progress(&load, 300).await;
        let victim = scene.draw.random_range(0..3);
        scene.cluster.kill9(victim);
        let failover = scene.cluster.failover(COLLECTION, victim).await.unwrap();
        took("until others lead everything, after a kill", failover, FAILOVER_MAX);
        scene.progress(&load, 400).await;
        scene.cluster.restart(victim).await.unwrap();
        scene.progress(&load, 200).await;
        load_is_shared_again(&scene).await;
    }
    none_failed(&scene.judge(load).await);
}

/// The restarted node has caught up before the next dies: two of three at once would be another test.
async fn load_is_shared_again(scene: &Scene) {
    flotilla_tests::wait::eventually("all replicas are near", Duration::from_secs(30), async || {
        let placement = scene.cluster.placement(COLLECTION).await.ok()?;
        let statuses = scene.cluster.statuses().await;
        let is_near = |partition: &flotilla_proto::v1::Partition| {
            let applied: Option<Vec<u64>> = partition
                .replicas
                .iter()
                .map(|node| {
                    let replicas = &statuses.get(node)?.replicas;
                    Some(replicas.iter().find(|r| r.partition == partition.id)?.applied)
                })
                .collect();
            applied.is_some_and(|a| a.iter().max().unwrap_or(&0) - a.iter().min().unwrap_or(&0) < 50)
        };
        placement.partitions.iter().all(is_near).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_under_load() {
    let mut scene = Scene::set("cluster::crash::leaders", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    for _ in 0..rounds(3) {
        scene.progress(&load, 200).await;
        let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
        scene.cluster.kill9(leader);
        let failover = scene.cluster.failover(COLLECTION, leader).await.unwrap();
        took("until others lead everything, after their leader died", failover, FAILOVER_MAX);
        scene.progress(&load, 100).await;
        scene.cluster.restart(leader).await.unwrap();
        load_is_shared_again(&scene).await;
    }
    let history = scene.judge(load).await;
    none_failed(&history);
    let (gap, _) = history.longest_gap(|call| call.freshness.is_none());
    took("the longest time without an acknowledged write", gap, FAILOVER_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_as_a_collection_is_made_is_not_missed() {
    let mut scene = Scene::set("cluster::crash::made", Shape::of(3, 0, 2)).await;
    let leader = scene.cluster.leaders().await.get(&META_GROUP.0).copied();
    let victim = (0..3).find(|place| Some(scene.cluster.node(*place).id()) != leader).unwrap();
    // Some of the new groups are to begin with its replica, and the others have heard nothing of them yet.
    let client = scene.cluster.client().await.unwrap();
    let spec = Some(load::collection("later", 24));
    client.create(v1::CreateCollectionRequest { spec }).await.unwrap();
    scene.cluster.kill9(victim);
    let dead = scene.cluster.node(victim).id();
    let partitions = scene.cluster.placement("later").await.unwrap().partitions;
    assert!(partitions.iter().any(|partition| partition.replicas.first() == Some(&dead)), "{partitions:?}");
    scene.cluster.failover("later", victim).await.unwrap();
    scene.work = Work::on("later");
    let load = scene.load().await;
    scene.progress(&load, 400).await;
    scene.cluster.restart(victim).await.unwrap();
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_router_takes_nothing_with_it() {
    let mut scene = Scene::set("cluster::crash::router", Shape::of(3, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    scene.cluster.kill9_router(0);
    scene.progress(&load, 300).await;
    scene.cluster.restart_router(0).await.unwrap();
    scene.progress(&load, 200).await;
    let history = scene.judge(load).await;
    // Each client may lose the call that was under way, and one that found the door closed.
    let failures = history.failures().count();
    assert!(failures <= 2 * scene.work.clients, "{failures} calls failed for one dead router");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_lose_nothing() {
    let mut scene = Scene::set("cluster::crash::all", Shape::of(3, 1, 2)).await;
    scene.work.deadline = Duration::from_secs(2);
    let load = scene.load().await;
    for _ in 0..rounds(2) {
        scene.progress(&load, 300).await;
        (0..4).for_each(|place| scene.cluster.kill9(place));
        scene.cluster.restart_all().await.unwrap();
        scene.cluster.led(COLLECTION, &[]).await.unwrap();
        scene.progress(&load, 200).await;
    }
    scene.judge(load).await;
}

//! An operator at work while clients are: replicas move, a node is drained and leaves, a collection gets more partitions.

use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_tests::cluster::Shape;

use super::{COLLECTION, PARTITIONS, Scene, none_failed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_move_under_load() {
    let scene = Scene::set("cluster::moves::replicas", Shape::of(4, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let nodes: Vec<u64> = scene.cluster.nodes().iter().map(|node| node.id()).collect();
    for partition in scene.cluster.placement(COLLECTION).await.unwrap().partitions {
        // The preferred leader's replica goes: the hardest one.
        let from = partition.replicas[0];
        let to = *nodes.iter().find(|node| !partition.replicas.contains(node)).unwrap();
        let goal = v1::MoveReplica { partition: partition.id, from, to };
        scene.cluster.carry_out(Goal::MoveReplica(goal)).await.unwrap();
        let placement = scene.cluster.placement(COLLECTION).await.unwrap();
        let moved = placement.partitions.iter().find(|p| p.id == partition.id).unwrap();
        assert!(moved.replicas.contains(&to) && !moved.replicas.contains(&from), "{moved:?}");
        scene.progress(&load, 50).await;
    }
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_under_load_and_leaves() {
    let mut scene = Scene::set("cluster::moves::drain", Shape::of(4, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let place = 3;
    let leaving = scene.cluster.node(place).id();
    let moves = scene.cluster.carry_out(Goal::Drain(leaving)).await.unwrap();
    println!("{moves} moves drained node {leaving}");
    let placement = scene.cluster.placement(COLLECTION).await.unwrap();
    assert!(placement.partitions.iter().all(|p| !p.replicas.contains(&leaving)), "{placement:?}");
    scene.cluster.terminate(place).await.unwrap();
    scene.cluster.carry_out(Goal::Remove(leaving)).await.unwrap();
    let map = scene.cluster.client().await.unwrap().placement().await.unwrap();
    assert!(map.nodes.iter().all(|node| node.id != leaving), "{:?}", map.nodes);
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_under_load_and_forgotten() {
    let mut scene = Scene::set("cluster::moves::a_dead", Shape::of(4, 0, 2)).await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let place = 2;
    let dead = scene.cluster.node(place).id();
    scene.cluster.kill9(place);
    let moves = scene.cluster.carry_out(Goal::Replace(v1::Replace { node: dead, by: 0 })).await.unwrap();
    let placement = scene.cluster.placement(COLLECTION).await.unwrap();
    assert!(moves > 0 && placement.partitions.iter().all(|p| !p.replicas.contains(&dead)), "{placement:?}");
    scene.cluster.carry_out(Goal::Remove(dead)).await.unwrap();
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_grows_under_load() {
    let scene = Scene::set("cluster::moves::grow", Shape::of(3, 1, 2)).await;
    scene.one_client().await.upsert_all().await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let partitions = PARTITIONS + 2;
    let goal = v1::Grow { collection: COLLECTION.into(), partitions };
    scene.cluster.carry_out(Goal::Grow(goal)).await.unwrap();
    let placement = scene.cluster.placement(COLLECTION).await.unwrap();
    assert_eq!(placement.partitions.len(), partitions as usize);
    scene.progress(&load, 300).await;
    let history = scene.judge(load).await;
    // A batch whose keys fell differently halfway is given back to its caller; nothing else may happen to one.
    let is_given_back = |why: &Option<String>| why.as_ref().is_some_and(|why| why.starts_with("Aborted"));
    let other: Vec<String> = history
        .failures()
        .filter(|call| !is_given_back(&call.error))
        .map(|call| format!("\n  {call}"))
        .collect();
    assert!(other.is_empty(), "{} calls failed:{}", other.len(), other.concat());
}

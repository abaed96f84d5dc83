//! A node that is killed for want of memory, as the kernel kills: it loses nothing, and comes back.

use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api;
use flotilla_tests::cluster::Shape;
use flotilla_tests::cluster::memory::Memory;
use flotilla_tests::seed::unit_vector;

use super::{Scene, none_failed};

const BULK: &str = "bulk";
const DIMS: usize = 256;
const BATCH: u64 = 200;
/// What the node may need beyond what it has, at first; the limit shrinks with each batch.
const ROOM: u64 = 24 << 20;
/// Of its memory that it keeps from batch to batch, in percent.
const SHRINK: u64 = 85;
const BATCHES_MAX: u64 = 60;
/// It does not know that its memory is short: if it did, it would refuse writes, and live.
const SETTINGS: &str = "memory:\n  max_heap_mb: 1048576\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_for_want_of_memory_loses_nothing() {
    let memory = match Memory::new() {
        Ok(memory) => memory,
        Err(why) => return println!("SKIPPED: no memory can be taken away here: {why}"),
    };
    let shape = Shape { settings: SETTINGS, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::memory::", shape).await;
    scene.create(v1::CollectionSpec { partitions: 2, ..api::collection(BULK, DIMS as u32, vec![]) }).await;
    let client = scene.cluster.client().await.unwrap().within(Duration::from_secs(30));
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let victim = 1;
    memory.hold(scene.cluster.node(victim).process().unwrap()).unwrap();
    let mut limit = memory.used().unwrap() + ROOM;
    let mut written = 0;
    while !scene.cluster.has_ended(victim) {
        assert!(written < BATCH * BATCHES_MAX, "it lives on with {limit} bytes");
        // It may be killed while the limit is written; then there is nothing to bring below it any more.
        let _ = memory.limit(limit);
        let record = |row: u64| api::record(api::number_key(row), unit_vector(row, DIMS), vec![]);
        client.put(BULK, (written..written + BATCH).map(record).collect()).await.unwrap();
        written += BATCH;
        limit = limit * SHRINK / 100;
    }
    println!("killed after {written} records more");
    scene.cluster.kill9(victim);
    scene.progress(&load, 200).await;
    drop(memory);
    scene.cluster.restart(victim).await.unwrap();
    scene.progress(&load, 200).await;
    none_failed(&scene.judge(load).await);
    scene.cluster.caught_up(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));
    scene.cluster.verified(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(client.total(BULK, None).await.unwrap(), written);
}

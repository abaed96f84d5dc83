//! A node that was away while the others threw their logs away is brought back by a snapshot, and then counts again.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::cluster::{Cluster, Shape};
use flotilla_tests::http;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::wait::eventually;

use super::{COLLECTION, Scene, none_failed};

const BULK: &str = "bulk";
const DIMS: usize = 16;
const BATCH: u64 = 100;
/// Records written while the node is away, at most; it ends as soon as the log that it needs is gone.
const RECORDS_MAX: u64 = 40_000;
/// A few hundred records see seals, and a few thousand see purges.
const SETTINGS: &str =
    "storage:\n  seal_rows: 200\nlog:\n  lanes: 2\n  segment_bytes: 1048576\nraft:\n  entries_kept: 20\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_away_beyond_the_purged_log_comes_back_by_a_snapshot() {
    let shape = Shape { settings: SETTINGS, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::snapshot::", shape).await;
    let spec = api::collection(BULK, DIMS as u32, vec![("row", v1::FieldType::Integer)]);
    scene.create(v1::CollectionSpec { partitions: 2, ..spec }).await;
    let client = scene.cluster.client().await.unwrap();
    put(&client, 0..BATCH * 5).await;
    scene.cluster.caught_up(BULK).await.unwrap();

    let load = scene.load().await;
    let away = 2;
    let held = applied(&scene.cluster, away).await;
    scene.cluster.kill9(away);
    let mut rows = BATCH * 5;
    while !is_purged(&scene.cluster, &held) {
        assert!(rows < RECORDS_MAX, "{rows} records, and the log is still there: {held:?}");
        put(&client, rows..rows + BATCH).await;
        rows += BATCH;
    }
    println!("{rows} records until the log was purged beyond {held:?}");
    scene.cluster.restart(away).await.unwrap();
    scene.progress(&load, 200).await;
    load.stop().await;
    scene.cluster.caught_up(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));
    scene.cluster.verified(BULK).await.unwrap_or_else(|why| panic!("{why:?}"));

    // It counts again: with another one gone, nothing is decided without it.
    scene.cluster.kill9(0);
    scene.cluster.led(COLLECTION, &[0]).await.unwrap();
    scene.cluster.led(BULK, &[0]).await.unwrap();
    assert_eq!(client.total(BULK, None).await.unwrap(), rows);
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    scene.cluster.restart(0).await.unwrap();
    none_failed(&scene.judge(load).await);
}

async fn put(client: &Api, rows: std::ops::Range<u64>) {
    let record = |row: u64| {
        let payload = vec![("row", api::int(row as i64)), ("text", api::text("filler ".repeat(40)))];
        api::record(api::number_key(row), unit_vector(row, DIMS), payload)
    };
    client.put(BULK, rows.map(record).collect()).await.unwrap();
}

/// How far a node has applied each partition of the bulk.
async fn applied(cluster: &Cluster, place: usize) -> BTreeMap<u64, u64> {
    let placement = cluster.placement(BULK).await.unwrap();
    let ours: Vec<u64> = placement.partitions.iter().map(|partition| partition.id).collect();
    let status = eventually("the node tells its status", Duration::from_secs(10), async || {
        cluster.node(place).status().await
    });
    let replicas = status.await.unwrap().replicas.into_iter().filter(|r| ours.contains(&r.partition));
    replicas.map(|replica| (replica.partition, replica.applied)).collect()
}

/// Whether both nodes that run have thrown away what comes after these indexes.
fn is_purged(cluster: &Cluster, held: &BTreeMap<u64, u64>) -> bool {
    let running = cluster.nodes().iter().filter(|node| node.is_running());
    let pages: Vec<String> =
        running.map(|node| http::get(node.address(), "/metrics").unwrap().body).collect();
    held.iter().all(|(partition, index)| {
        let name = format!("flotilla_raft_purged_index{{partition=\"{partition}\"}} ");
        let purged = |page: &String| {
            let sample = page.lines().find_map(|line| line.strip_prefix(&name))?;
            sample.trim().parse::<f64>().ok()
        };
        pages.iter().all(|page| purged(page).unwrap_or(0.0) > *index as f64)
    })
}

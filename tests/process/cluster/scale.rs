//! Fewer shard nodes: the highest ordinal is drained while clients write, is told to be safe, and may come back.

use flotilla_proto::v1;
use flotilla_tests::api;
use flotilla_tests::cluster::{Cluster, Shape};
use flotilla_tests::http;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::wait::eventually;

use super::{PROGRESS_WITHIN, alone};

const RECORDS: u64 = 300;
const SAFE: &str = "flotilla_scale_in_safe";
const FLOOR: &str = "flotilla_shard_nodes_floor";

/// Three nodes with ordinals, and a collection whose partitions have two replicas each.
async fn cluster() -> Cluster {
    let shape = Shape { has_ordinals: true, ..Shape::of(3, 0, 1) };
    let cluster = Cluster::start(crate::binary(), shape).await.unwrap();
    let client = cluster.client().await.unwrap();
    let mut spec = api::collection("c", 4, vec![]);
    (spec.partitions, spec.replication_factor) = (6, 2);
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let row = |n: u64| api::record(api::number_key(n), unit_vector(n, 4), vec![("n", api::int(n as i64))]);
    client.put("c", (0..RECORDS).map(row).collect()).await.unwrap();
    cluster
}

async fn status(cluster: &Cluster) -> Option<v1::StatusResponse> {
    cluster.client().await.ok()?.status(v1::StatusRequest {}).await.ok()
}

async fn scale(cluster: &Cluster, to: Option<u32>) -> Result<v1::StatusResponse, tonic::Status> {
    let answer = cluster.client().await.unwrap().scale(v1::ScaleRequest { to }).await?;
    Ok(answer.status.unwrap())
}

fn metric(cluster: &Cluster, place: usize, name: &str) -> Option<String> {
    let text = http::get(cluster.node(place).advertised().0, "/metrics").ok()?.body;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
}

async fn all_records_are_there(cluster: &Cluster) {
    assert_eq!(cluster.client().await.unwrap().total("c", None).await.unwrap(), RECORDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_highest_ordinal_is_drained_and_then_safe_to_end() {
    let _alone = alone().await;
    let mut cluster = cluster().await;
    let refused = scale(&cluster, Some(1)).await.unwrap_err();
    assert!(refused.message().contains("at least 2, got 1"), "{refused:?}");
    let before = status(&cluster).await.unwrap();
    assert_eq!((before.shard_nodes, before.shard_nodes_floor, before.scale_in_safe), (3, 3, false));
    assert_eq!((before.desired_shard_nodes, before.desired_reason.as_str()), (3, "members"), "{before:?}");

    let asked = scale(&cluster, Some(2)).await.unwrap();
    assert_eq!((asked.target, asked.leaving.len(), asked.leaving[0].ordinal), (Some(2), 1, Some(2)));
    let done = eventually("the highest ordinal is released", PROGRESS_WITHIN, async || {
        status(&cluster).await.filter(|status| status.scale_in_safe)
    });
    let done = done.await.unwrap();
    assert_eq!((done.shard_nodes_floor, done.shard_nodes, done.leaving[0].released), (2, 2, true));
    let leaving = done.leaving[0].node;
    let placement = cluster.placement("c").await.unwrap();
    assert!(placement.partitions.iter().all(|p| !p.replicas.contains(&leaving)), "{placement:?}");
    let shown = eventually("the metrics say so", PROGRESS_WITHIN, async || {
        (metric(&cluster, 0, SAFE)? == "1" && metric(&cluster, 0, FLOOR)? == "2").then_some(())
    });
    shown.await.unwrap();

    let place = cluster.place_of(leaving).unwrap();
    cluster.terminate(place).await.unwrap();
    cluster.carry_out(v1::plan_request::Goal::Remove(leaving)).await.unwrap();
    let left = status(&cluster).await.unwrap();
    assert_eq!((left.target, left.shard_nodes, left.shard_nodes_floor), (None, 2, 2), "{left:?}");
    all_records_are_there(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_ends_pods_asks_the_node_and_may_think_better_of_it() {
    let _alone = alone().await;
    let cluster = cluster().await;
    let nodes = cluster.client().await.unwrap().placement().await.unwrap().nodes;
    let highest = nodes.iter().find(|node| node.ordinal == Some(2)).unwrap().id;
    let place = cluster.place_of(highest).unwrap();
    let at = cluster.node(place).advertised().0;
    let ask = |method: &str| http::call(at, method, "/prepare-downscale").unwrap();

    assert!(ask("GET").body.contains("\"state\":\"stays\""));
    let first = ask("POST");
    assert!(first.status == 503 && first.body.contains("draining"), "{first:?}");
    let released = eventually("the node is released", PROGRESS_WITHIN, async || {
        let answer = ask("POST");
        (answer.status == 200).then_some(answer.body)
    });
    let released = released.await.unwrap();
    assert!(released.contains("\"replicas\":0") && !released.contains("\"timestamp\":0"), "{released}");
    assert_eq!(ask("POST").body, released, "the same time");

    assert_eq!(ask("DELETE").status, 200);
    assert_eq!(ask("DELETE").status, 200, "there is nothing to call off");
    let back = status(&cluster).await.unwrap();
    assert_eq!((back.target, back.shard_nodes, back.shard_nodes_floor), (None, 3, 3), "{back:?}");
    assert!(!back.scale_in_safe);
    all_records_are_there(&cluster).await;
}

//! Every replication factor: so many replicas on so many nodes, equal; and two dead nodes of five are no error where five
//! replicas are.

use flotilla_proto::v1;
use flotilla_tests::api::Api;
use flotilla_tests::cluster::Shape;
use flotilla_tests::load;

use super::Scene;

const RECORDS: u64 = 200;

async fn write(client: &Api, name: &str, first: u64) {
    let records = (first..first + RECORDS).map(|key| load::record(key, key)).collect();
    client.put(name, records).await.unwrap_or_else(|why| panic!("{name}: {why}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_has_as_many_replicas_as_it_asks_for() {
    let mut scene = Scene::set("cluster::factors::", Shape::of(5, 0, 1)).await;
    let client = scene.cluster.client().await.unwrap();
    for factor in [1, 2, 5] {
        let name = format!("factor-{factor}");
        scene.create(v1::CollectionSpec { replication_factor: factor, ..load::collection(&name, 2) }).await;
        write(&client, &name, 0).await;
        scene.cluster.caught_up(&name).await.unwrap_or_else(|why| panic!("{name}: {why:?}"));
        scene.cluster.verified(&name).await.unwrap_or_else(|why| panic!("{name}: {why:?}"));
        for partition in scene.cluster.placement(&name).await.unwrap().partitions {
            let mut nodes = partition.replicas.clone();
            nodes.sort_unstable();
            nodes.dedup();
            assert_eq!((nodes.len(), partition.replicas.len()), (factor as usize, factor as usize), "{name}");
        }
    }
    scene.cluster.kill9(3);
    scene.cluster.kill9(4);
    scene.cluster.led("factor-5", &[3, 4]).await.unwrap();
    write(&client, "factor-5", RECORDS).await;
    let all = v1::CountRequest { collection: "factor-5".into(), ..Default::default() };
    assert_eq!(client.count(all).await.unwrap().count, 2 * RECORDS);
}

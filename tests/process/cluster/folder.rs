//! Growing out of one process: the folder of `flotilla up` becomes a cluster's first node, and then that node may go.

use std::sync::Arc;

use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_tests::cluster::Shape;
use flotilla_tests::load::{self, Client, Work};
use flotilla_tests::seed::Seed;
use flotilla_tests::server::Server;

use super::{COLLECTION, PARTITIONS, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_folder_becomes_a_clusters_first_node() {
    let dir = crate::folder();
    let data = dir.path().join("data");
    let recorder = Arc::default();
    let server = Server::start(crate::binary(), &data, &[]).unwrap();
    let spec = Some(load::collection(COLLECTION, PARTITIONS));
    server.client().await.unwrap().create(v1::CreateCollectionRequest { spec }).await.unwrap();
    let seed = Seed::of("cluster::folder::");
    let mut client = Client::new(&recorder, &[server.url()], &seed, &Work::on(COLLECTION)).await.unwrap();
    client.upsert_all().await;
    for _ in 0..100 {
        client.step().await;
    }
    server.terminate().unwrap();

    let shape = Shape { first_folder: Some(data), ..Shape::of(3, 1, 2) };
    let mut scene = Scene { recorder, ..Scene::set("cluster::folder::", shape).await };
    scene.one_client().await.get_all().await;
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    let (first, second) = (scene.cluster.node(0).id(), scene.cluster.node(1).id());
    for partition in scene.cluster.placement(COLLECTION).await.unwrap().partitions {
        let goal = v1::MoveReplica { partition: partition.id, from: first, to: second };
        scene.cluster.carry_out(Goal::MoveReplica(goal)).await.unwrap();
    }
    scene.progress(&load, 200).await;
    // Nothing of the collection is left where it came from.
    scene.cluster.kill9(0);
    scene.progress(&load, 200).await;
    scene.cluster.restart(0).await.unwrap();
    scene.judge(load).await;
}

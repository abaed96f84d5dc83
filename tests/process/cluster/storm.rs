//! Everything at once, for as long as one likes: `FLOTILLA_TEST_STORM=200` draws 200 faults from the seed. Without it, a few.
//!
//! After the storm everything runs again, and the cluster has to make progress: a history that is right because nothing
//! happened proves nothing.

use std::time::Duration;

use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use flotilla_tests::cluster::Shape;
use flotilla_tests::load::{self, Load};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{COLLECTION, Scene};

const FAULTS: usize = 6;
const GROUPS: &str = "groups";
const NODES: usize = 4;
const ROUTERS: usize = 2;
/// How long a process stands still, in milliseconds: shorter and longer than an election.
const STANDSTILL_MS: std::ops::Range<u64> = 50..5_000;
/// Between two faults, in acknowledged calls: sometimes none.
const CALM: std::ops::Range<usize> = 0..120;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    KillLeader,
    KillTwo,
    Stop,
    Drain,
    Router,
    Move,
}

const ALL: &[Fault] =
    &[Fault::Kill, Fault::KillLeader, Fault::KillTwo, Fault::Stop, Fault::Drain, Fault::Router, Fault::Move];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_faults_breaks_no_promise() {
    let faults = std::env::var("FLOTILLA_TEST_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(FAULTS);
    let mut scene = Scene::set("cluster::storm::", Shape::of(NODES, 1, ROUTERS)).await;
    scene.work.deadline = Duration::from_secs(3);
    scene.create(load::groups(GROUPS, 2)).await;
    scene.work.groups = Some(GROUPS.into());
    let load = scene.load().await;
    for n in 0..faults {
        let calm = scene.draw.random_range(CALM);
        scene.progress(&load, calm).await;
        let fault = *ALL.choose(&mut scene.draw).unwrap();
        println!("fault {n}: {fault:?}");
        strike(&mut scene, fault, &load).await;
    }
    scene.cluster.led(COLLECTION, &[]).await.unwrap();
    scene.progress(&load, 300).await;
    scene.judge(load).await;
    scene.cluster.caught_up(GROUPS).await.unwrap_or_else(|why| panic!("{why:?}"));
    scene.cluster.verified(GROUPS).await.unwrap_or_else(|why| panic!("{why:?}"));
}

async fn strike(scene: &mut Scene, fault: Fault, load: &Load) {
    let place = scene.draw.random_range(0..NODES);
    match fault {
        Fault::Kill => {
            scene.cluster.kill9(place);
            let calm = scene.draw.random_range(CALM);
            scene.progress(load, calm).await;
            scene.cluster.restart(place).await.unwrap();
        }
        Fault::KillLeader => {
            let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
            scene.cluster.kill9(leader);
            scene.cluster.restart(leader).await.unwrap();
        }
        Fault::KillTwo => {
            scene.cluster.kill9(place);
            scene.cluster.kill9((place + 1) % NODES);
            scene.cluster.restart_all().await.unwrap();
        }
        Fault::Stop => {
            scene.cluster.pause(place).unwrap();
            let time = Duration::from_millis(scene.draw.random_range(STANDSTILL_MS));
            // Not to wait for something: how long it stands still is an input.
            tokio::time::sleep(time).await;
            scene.cluster.resume(place).unwrap();
        }
        Fault::Drain => {
            scene.cluster.terminate(place).await.unwrap();
            scene.cluster.restart(place).await.unwrap();
        }
        Fault::Router => {
            let router = scene.draw.random_range(0..ROUTERS);
            scene.cluster.kill9_router(router);
            scene.cluster.restart_router(router).await.unwrap();
        }
        Fault::Move => move_one(scene).await,
    }
}

/// A replica goes to the one node that has none of its partition.
async fn move_one(scene: &mut Scene) {
    let partitions = scene.cluster.placement(COLLECTION).await.unwrap().partitions;
    let partition = partitions.choose(&mut scene.draw).unwrap();
    let from = *partition.replicas.choose(&mut scene.draw).unwrap();
    let shards: Vec<u64> = scene.cluster.nodes()[..NODES].iter().map(|node| node.id()).collect();
    let to = *shards.iter().find(|node| !partition.replicas.contains(node)).unwrap();
    let goal = v1::MoveReplica { partition: partition.id, from, to };
    scene.cluster.carry_out(Goal::MoveReplica(goal)).await.unwrap_or_else(|why| panic!("{why:?}"));
}

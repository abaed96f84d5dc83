//! The network is cut: a leader in a minority that clients still reach, cuts that only one side feels, a cable pulled.
//!
//! Each test runs inside network namespaces of its own; where the machine has none, it says so and tests nothing.

use std::time::Duration;

use flotilla_tests::cluster::Shape;
use flotilla_tests::cluster::network::{Entered, Network, enter};
use flotilla_tests::load::Load;
use flotilla_tests::process::{command, run};

use super::{COLLECTION, Scene, took};

const FAILOVER_MAX: Duration = Duration::from_secs(12);

/// The network, in the process that runs inside; nothing in the one that started it, or where there is none to have.
fn network(test: &str) -> Option<Network> {
    let help = run(command(crate::binary(), &["node", "--help"])).unwrap();
    if !help.stdout.contains("--bind") {
        println!("SKIPPED: this binary's nodes know no --bind, so they cannot have addresses of their own");
        return None;
    }
    match enter(test).unwrap_or_else(|why| panic!("{why:?}")) {
        Entered::Inside(network) => Some(network),
        Entered::Ran(ran) => {
            print!("{}", ran.stdout);
            assert_eq!(ran.code, Some(0), "inside the namespace:\n{}\n{}", ran.stdout, ran.stderr);
            None
        }
        Entered::Impossible(why) => {
            println!("SKIPPED: no network namespaces here: {why}");
            None
        }
    }
}

async fn scene(name: &'static str, network: Network) -> (Scene, Load) {
    let mut scene = Scene::set_on(name, Shape::of(3, 0, 2), Some(network)).await;
    // Clients of a cut node are to try again soon.
    scene.work.deadline = Duration::from_secs(3);
    let load = scene.load().await;
    scene.progress(&load, 200).await;
    (scene, load)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_a_minority_decides_nothing() {
    let Some(network) = network("cluster::split::a_leader_in_a_minority_decides_nothing") else { return };
    let (scene, load) = scene("cluster::split::minority", network).await;
    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    let network = scene.cluster.network().unwrap();
    // The routers still reach it: it is asked, and must not answer from what it thinks it leads.
    network.isolate(leader).unwrap();
    // It may believe that it leads for a while; the others know better.
    let failover = others_lead(&scene, leader).await;
    took("until others lead everything, after their leader was cut off", failover, FAILOVER_MAX);
    scene.progress(&load, 300).await;
    network.rejoin(leader).unwrap();
    scene.progress(&load, 200).await;
    scene.judge(load).await;
}

/// How long until each partition is led by another node, whatever the one cut off says of itself.
async fn others_lead(scene: &Scene, cut_off: usize) -> Duration {
    let begin = std::time::Instant::now();
    let placement = scene.cluster.placement(COLLECTION).await.unwrap();
    let cut_off = scene.cluster.node(cut_off).id();
    flotilla_tests::wait::eventually("the others lead everything", FAILOVER_MAX * 2, async || {
        let statuses = scene.cluster.statuses().await;
        let others = || statuses.iter().filter(|(node, _)| **node != cut_off).flat_map(|(_, s)| &s.replicas);
        let is_led = |id: u64| others().any(|replica| replica.partition == id && replica.is_leader);
        placement.partitions.iter().all(|partition| is_led(partition.id)).then_some(())
    })
    .await
    .unwrap();
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_cuts_are_survived() {
    let Some(network) = network("cluster::split::one_way_cuts_are_survived") else { return };
    let (scene, load) = scene("cluster::split::one_way", network).await;
    let network = scene.cluster.network().unwrap();
    // It is heard by nobody, and hears everybody.
    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    others.iter().for_each(|other| network.cut(leader, *other).unwrap());
    took(
        "until others lead everything, after their leader fell silent",
        others_lead(&scene, leader).await,
        FAILOVER_MAX,
    );
    scene.progress(&load, 150).await;
    others.iter().for_each(|other| network.heal(leader, *other).unwrap());
    scene.progress(&load, 150).await;
    // It hears nobody, and speaks to everybody.
    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    others.iter().for_each(|other| network.cut(*other, leader).unwrap());
    took(
        "until others lead everything, after their leader fell deaf",
        others_lead(&scene, leader).await,
        FAILOVER_MAX,
    );
    scene.progress(&load, 150).await;
    others.iter().for_each(|other| network.heal(*other, leader).unwrap());
    scene.progress(&load, 150).await;
    scene.judge(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_do_not_hear_each_other_do_not_stop_the_third() {
    const NAME: &str = "cluster::split::two_nodes_that_do_not_hear_each_other_do_not_stop_the_third";
    let Some(network) = network(NAME) else { return };
    let (scene, load) = scene("cluster::split::two_nodes", network).await;
    let network = scene.cluster.network().unwrap();
    // The leader of most and one follower: only the third node sees both.
    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    let follower = (leader + 1) % 3;
    network.cut(leader, follower).unwrap();
    network.cut(follower, leader).unwrap();
    scene.progress(&load, 300).await;
    network.heal(leader, follower).unwrap();
    network.heal(follower, leader).unwrap();
    scene.progress(&load, 100).await;
    // A cable pulled: neither nodes nor routers reach it.
    network.plug(follower, false).unwrap();
    scene.progress(&load, 300).await;
    network.plug(follower, true).unwrap();
    scene.progress(&load, 100).await;
    scene.judge(load).await;
}

//! Links that are slow, silent, half closed or reset, where no side is told the truth: between clients and routers, between
//! routers and nodes, and between nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use flotilla_tests::cluster::Shape;
use flotilla_tests::load::Load;
use flotilla_tests::proxy::{BOTH, Proxy, Way};
use flotilla_tests::wait::eventually;

use super::{COLLECTION, PROGRESS_WITHIN, Scene, none_failed};

/// Longer than most calls take, shorter than any patience.
const DELAY: Duration = Duration::from_millis(40);
/// What a client may be told of a link that fails it.
const TOLD: [&str; 5] =
    ["Unavailable", "DeadlineExceeded", "Unknown", "Cancelled", "Internal: h2 protocol error"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_between_nodes_that_misbehave_break_no_promise() {
    let shape = Shape { has_links: true, ..Shape::of(3, 0, 2) };
    let mut scene = Scene::set("cluster::links::nodes", shape).await;
    scene.work.deadline = Duration::from_secs(2);
    let load = scene.load().await;
    scene.progress(&load, 100).await;

    let leader = scene.cluster.busiest(COLLECTION).await.unwrap();
    let links = scene.cluster.node(leader).links().unwrap();
    for link in [&links.data, &links.peers] {
        link.delay(DELAY);
        scene.progress(&load, 100).await;
        link.delay(Duration::ZERO);
        link.reset();
        scene.progress(&load, 60).await;
        BOTH.iter().for_each(|way| link.half_close(*way));
        scene.progress(&load, 60).await;
    }
    // Nodes do not reach it, or hear none of its answers, and it still reaches them.
    for ways in [&BOTH[..], &[Way::There], &[Way::Back]] {
        links.peers.hold(ways);
        scene.progress(&load, 60).await;
        links.peers.release();
    }
    // No router reaches it, and it leads on; then no node reaches another.
    links.data.hold(&BOTH);
    calls_fail(&scene, scene.work.clients).await;
    links.data.release();
    scene.progress(&load, 60).await;
    let all = || (0..3).map(|place| &scene.cluster.node(place).links().unwrap().peers);
    all().for_each(|link| link.hold(&BOTH));
    calls_fail(&scene, scene.work.clients).await;
    all().for_each(Proxy::release);
    scene.progress(&load, 100).await;
    let history = scene.judge(load).await;
    let other = history.failures().find(|call| !is_told(call.error.as_deref()));
    assert!(other.is_none(), "{}", other.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_to_routers_that_misbehave_break_no_promise() {
    let mut scene = Scene::set("cluster::links::routers", Shape::of(3, 0, 2)).await;
    scene.work.deadline = Duration::from_secs(3);
    let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let link = |place| Proxy::start(anywhere, scene.cluster.router(place).address()).unwrap();
    let links = [link(0), link(1)];
    let urls: Vec<String> = links.iter().map(|link| format!("http://{}", link.address())).collect();
    let load = Load::start(&scene.recorder, &urls, &scene.seed, &scene.work).await.unwrap();
    scene.progress(&load, 100).await;
    links.iter().for_each(|link| link.delay(DELAY));
    scene.progress(&load, 150).await;
    none_failed(&scene.recorder.history());
    links.iter().for_each(|link| link.delay(Duration::ZERO));
    for _ in 0..2 {
        links.iter().for_each(Proxy::reset);
        scene.progress(&load, 60).await;
        // Requests arrive, answers do not: written, and the writer does not know.
        links[0].hold(&[Way::Back]);
        scene.progress(&load, 60).await;
        links[0].release();
        links[1].half_close(Way::There);
        links[0].half_close(Way::Back);
        scene.progress(&load, 60).await;
    }
    let history = scene.judge(load).await;
    let other = history.failures().find(|call| !is_told(call.error.as_deref()));
    assert!(other.is_none(), "{}", other.unwrap());
}

/// Waits until so many more calls have failed.
async fn calls_fail(scene: &Scene, count: usize) {
    let failures = || scene.recorder.note(|history| history.failures().count());
    let goal = failures() + count;
    eventually("calls fail", PROGRESS_WITHIN, async || (failures() >= goal).then_some(())).await.unwrap();
}

fn is_told(error: Option<&str>) -> bool {
    error.is_some_and(|error| TOLD.iter().any(|told| error.starts_with(told)))
}

//! The promise that matters most: an acknowledged write is there after a crash of the process, whole and once, and a
//! deleted record stays deleted.
//!
//! Eight clients write over a bounded set of keys while the server is killed with SIGKILL at random moments; some kills hit
//! it while it recovers from the one before. After each crash everything is read back in every way that a user has (scan,
//! get, count, count by filter, exact search) and held against the oracle. Segments seal at 200 rows and the log's files
//! are small, so that seals, graph builds, compactions and purges run under the kills. In a second test the collection
//! gets another partition in each life, so that slots move under the writes and the kills.

mod oracle;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::http;
use flotilla_tests::seed::Seed;
use flotilla_tests::server::Server;
use rand::Rng as _;
use rand::rngs::SmallRng;

use self::oracle::{Oracle, check};
use self::writer::Writer;

pub(crate) const COLLECTION: &str = "crash";
pub(crate) const DIMS: usize = 16;
const CLIENTS: u64 = 8;
/// How long the clients write before a kill, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 60..900;
/// When a server that recovers is killed, in milliseconds after its start.
const REBIRTH_MS: std::ops::Range<u64> = 5..400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills() {
    let seed = Seed::of("kill9::");
    let kills = std::env::var("FLOTILLA_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut draw = seed.generator(u64::MAX);
    let dir = crate::folder();
    let data = dir.path().join("data");
    let settings = crate::small_settings(dir.path());
    let start = || Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();

    let mut server = start();
    create(&server.client().await.unwrap(), 0).await;
    let mut writers: Vec<Writer> = (0..CLIENTS).map(|id| Writer::new(id, seed.generator(id))).collect();
    let mut acknowledged = 0;
    for round in 0..kills {
        let life = Duration::from_millis(draw.random_range(LIFE_MS));
        writers = write_until_killed(server, writers, life, None).await;
        acknowledged += writers.iter_mut().map(Writer::take_acknowledged).sum::<u64>();
        if draw.random_range(0..3) == 0 {
            kill_while_recovering(&data, &settings, &mut draw).await;
        }
        server = start();
        let client = server.client().await.unwrap();
        let seen = check(&client, Oracle::of(&writers), &mut draw).await;
        let found = seen.unwrap_or_else(|why| panic!("after kill {}: {why}\n{}", round + 1, server.log()));
        writers.iter_mut().for_each(|writer| writer.settle(&found));
    }
    // The storm is over: the same folder serves an ordinary client, ends in order and comes back.
    let client = server.client().await.unwrap();
    for writer in &mut writers {
        for _ in 0..20 {
            writer.step(&client).await.unwrap_or_else(|why| panic!("after the last kill: {why}"));
        }
    }
    check(&client, Oracle::of(&writers), &mut draw).await.unwrap();
    assert!(gauge(&server, "flotilla_partition_segments") > 0.0, "nothing was ever sealed");
    assert!(gauge(&server, "flotilla_raft_purged_index") > 0.0, "no log was ever purged");
    server.terminate().unwrap();
    let server = start();
    check(&server.client().await.unwrap(), Oracle::of(&writers), &mut draw).await.unwrap();
    server.terminate().unwrap();
    println!("{kills} kills, {acknowledged} writes acknowledged under them");
    assert!(acknowledged > 50 * kills, "too few writes to mean anything: {acknowledged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_grow_under_writes_and_kills() {
    let seed = Seed::of("kill9::partitions");
    let kills = std::env::var("FLOTILLA_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let mut draw = seed.generator(u64::MAX);
    let dir = crate::folder();
    let data = dir.path().join("data");
    let settings = crate::small_settings(dir.path());
    let start = || Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();

    let mut server = start();
    create(&server.client().await.unwrap(), 1).await;
    let mut writers: Vec<Writer> = (0..CLIENTS).map(|id| Writer::new(id, seed.generator(id))).collect();
    for round in 0..kills {
        let life = Duration::from_millis(draw.random_range(LIFE_MS));
        writers = write_until_killed(server, writers, life, Some(2 + round)).await;
        server = start();
        let client = server.client().await.unwrap();
        let seen = check(&client, Oracle::of(&writers), &mut draw).await;
        let found = seen.unwrap_or_else(|why| panic!("after kill {}: {why}\n{}", round + 1, server.log()));
        writers.iter_mut().for_each(|writer| writer.settle(&found));
    }
    // The storm is over: the last growth goes through, under writes.
    let client = server.client().await.unwrap();
    let partitions = 2 + kills;
    grow(&client, partitions).await.unwrap();
    let is_through = || async {
        let open = [v1::MoveState::Queued, v1::MoveState::Running];
        let moves = client.moves(v1::MovesRequest {}).await.unwrap().moves;
        moves.iter().all(|m| !open.contains(&m.state()))
    };
    while !is_through().await {
        for writer in &mut writers {
            writer.step(&client).await.unwrap_or_else(|why| panic!("while slots move: {why}"));
        }
    }
    let map = client.describe(v1::DescribeRequest {}).await.unwrap().placement.unwrap();
    let placement = &map.collections[0];
    assert_eq!(placement.partitions.len(), partitions as usize);
    assert!((0..partitions).all(|ordinal| placement.slots.contains(&ordinal)), "a partition owns nothing");
    check(&client, Oracle::of(&writers), &mut draw).await.unwrap();
    server.terminate().unwrap();
    let server = start();
    check(&server.client().await.unwrap(), Oracle::of(&writers), &mut draw).await.unwrap();
    server.terminate().unwrap();
}

async fn grow(client: &Api, partitions: u32) -> Result<(), tonic::Status> {
    let goal = v1::plan_request::Goal::Grow(v1::Grow { collection: COLLECTION.into(), partitions });
    let plan = Some(v1::PlanRequest { goal: Some(goal) });
    client.apply(v1::ApplyRequest { plan, epoch: 0 }).await.map(drop)
}

/// A collection of so many partitions; 0: as many as the server thinks right.
async fn create(client: &Api, partitions: u32) {
    use v1::FieldType::{Integer, Keyword};
    let fields = vec![("value", Integer), ("bucket", Integer), ("client", Integer), ("text", Keyword)];
    let spec = v1::CollectionSpec { partitions, ..api::collection(COLLECTION, DIMS as u32, fields) };
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
}

/// A gauge, all partitions together.
fn gauge(server: &Server, name: &str) -> f64 {
    let page = http::get(server.address(), "/metrics").unwrap().body;
    let samples = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Lets all writers run, has the collection grow meanwhile if asked to, kills the server after `life` and returns the
/// writers with what each may believe.
async fn write_until_killed(
    server: Server,
    writers: Vec<Writer>,
    life: Duration,
    partitions: Option<u32>,
) -> Vec<Writer> {
    let is_killed = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    let growing = match partitions {
        Some(partitions) => {
            let client = server.client().await.unwrap();
            // The kill may come before it is queued: the next life has another number.
            Some(tokio::spawn(async move { grow(&client, partitions).await }))
        }
        None => None,
    };
    for mut writer in writers {
        let client = server.client().await.unwrap();
        let is_killed = is_killed.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                if let Err(why) = writer.step(&client).await {
                    // Only a dead server may fail to answer a legal request.
                    assert!(is_killed.load(Ordering::SeqCst), "before the kill: {why}");
                    return writer;
                }
            }
        }));
    }
    // Not to wait for something: the moment of the kill is the input of this test.
    tokio::time::sleep(life).await;
    is_killed.store(true, Ordering::SeqCst);
    server.kill9();
    if let Some(growing) = growing {
        let _queued_or_killed = growing.await.unwrap();
    }
    let mut back = Vec::new();
    for task in tasks {
        back.push(task.await.unwrap());
    }
    back
}

async fn kill_while_recovering(data: &Path, settings: &str, draw: &mut SmallRng) {
    let starting = Server::spawn(crate::binary(), data, &["--config", settings]).unwrap();
    tokio::time::sleep(Duration::from_millis(draw.random_range(REBIRTH_MS))).await;
    starting.kill9();
}

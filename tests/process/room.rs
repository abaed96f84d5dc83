//! Memory and disk that run short under a server: it refuses writes and says when to come back, answers reads, takes deletions, is
//! not killed, and goes on once there is room.
//!
//! Memory is taken away by a control group (`flotilla_tests::cluster::memory`), a disk of its own is a small file system
//! (`flotilla_tests::cluster::disk`). Without the first the server is told its limit; without the second the test says so and
//! tests nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::cluster::disk::Disk;
use flotilla_tests::cluster::memory::Memory;
use flotilla_tests::http;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const COLLECTION: &str = "room";
const MEMORY_MIB: u64 = 512;
const DIMS: usize = 256;
const BATCH: u64 = 100;
const WRITERS: u64 = 4;
/// Text of each record, so that it takes about 4 KiB.
const PAD: usize = 3_000;
/// Refused at the latest by then: several times what there is.
const ROWS_MAX: u64 = 600_000;
const DISK_MIB: u64 = 1_536;
const SOON: Duration = Duration::from_secs(120);

fn start(dir: &Path, data: &Path, settings: &str) -> Server {
    let file = dir.join("flotilla.yaml");
    std::fs::write(&file, settings).unwrap();
    Server::start(crate::binary(), data, &["--config", file.to_str().unwrap()]).unwrap()
}

async fn create(client: &Api) {
    let mut spec = v1::CollectionSpec { partitions: 2, ..api::collection(COLLECTION, DIMS as u32, vec![]) };
    for vector in spec.vectors.values_mut() {
        vector.index = v1::IndexKind::Flat.into();
    }
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
}

fn batch(from: u64) -> Vec<v1::Record> {
    let pad = || vec![("pad", api::text("x".repeat(PAD)))];
    (from..from + BATCH).map(|n| api::record(api::number_key(n), unit_vector(n % 97, DIMS), pad())).collect()
}

/// Writes from several sides until one of them is refused; how many records were offered, and the refusal.
async fn until_refused(client: &Api) -> (u64, Status) {
    let next = Arc::new(AtomicU64::new(0));
    let writer = |_| {
        let (client, next) = (client.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let from = next.fetch_add(BATCH, Ordering::SeqCst);
                assert!(from < ROWS_MAX, "nothing is refused");
                if let Err(status) = client.put(COLLECTION, batch(from)).await {
                    return status;
                }
            }
        })
    };
    let mut refused = None;
    for writer in (0..WRITERS).map(writer).collect::<Vec<_>>() {
        refused = Some(writer.await.unwrap());
    }
    (next.load(Ordering::SeqCst), refused.unwrap())
}

fn is_told(status: &Status, why: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains(why), "{}", status.message());
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(
        retry.is_some_and(|delay| delay > Duration::ZERO),
        "it does not say when to come back: {status:?}"
    );
}

async fn reads(client: &Api) {
    let found = client.search(api::search(COLLECTION, unit_vector(3, DIMS), 5)).await.unwrap();
    assert_eq!(found.hits.len(), 5);
    assert!(client.total(COLLECTION, None).await.unwrap() > 0);
}

fn metric(server: &Server, name: &str) -> f64 {
    let page = http::get(server.address(), "/metrics").unwrap();
    let lines = page.body.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn taken_again(client: &Api, from: u64) {
    let taken =
        eventually("writes are taken again", SOON, async || client.put(COLLECTION, batch(from)).await.ok());
    taken.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_short_of_memory_refuses_writes_and_goes_on() {
    let dir = crate::folder();
    let group = Memory::new().inspect_err(|why| println!("no control group here, so it is told: {why}"));
    let told = if group.is_ok() { 0 } else { MEMORY_MIB };
    // Segments that grow as long as there is memory.
    let settings = format!(
        "storage:\n  seal_rows: 1000000\n  seal_bytes: 4294967296\nindex:\n  backlog_max: 1000000\nmemory:\n  max_heap_mb: {told}\n"
    );
    let server = start(dir.path(), &dir.path().join("data"), &settings);
    if let Ok(group) = &group {
        group.hold(server.process()).unwrap();
        group.limit(MEMORY_MIB << 20).unwrap();
    }
    let client = server.client().await.unwrap();
    create(&client).await;
    let (offered, refused) = until_refused(&client).await;
    is_told(&refused, "short of memory");
    println!(
        "refused after {offered} records, at a pressure of {}",
        metric(&server, "flotilla_memory_pressure")
    );
    assert_eq!(metric(&server, "flotilla_memory_limit_bytes"), (MEMORY_MIB << 20) as f64);
    reads(&client).await;
    let gone = client.remove(COLLECTION, (0..BATCH).map(api::number_key).collect()).await.unwrap();
    assert!(gone > 0, "deletions are taken");
    taken_again(&client, offered).await;
    reads(&client).await;
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_short_of_disk_keeps_its_reserve_and_goes_on() {
    let disk = match Disk::new(DISK_MIB) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED: no disk of our own here: {why}"),
    };
    let dir = crate::folder();
    let settings = "storage:\n  seal_rows: 2000\nlog:\n  lanes: 1\n  segment_bytes: 1048576\n";
    let server = start(dir.path(), &disk.path().join("data"), settings);
    let client = server.client().await.unwrap();
    create(&client).await;
    client.put(COLLECTION, batch(0)).await.unwrap();
    let ballast = disk.path().join("data/ballast");
    let free = metric(&server, "flotilla_disk_free_bytes");
    let reserve = metric(&server, "flotilla_disk_reserve_bytes");
    assert!(0.0 < reserve && reserve < free, "{reserve} of {free}");
    // Most of it is gone at once, the rest is left to the writers.
    std::fs::write(&ballast, vec![0xA5; (free - 4.0 * reserve) as usize]).unwrap();
    let (offered, refused) = until_refused(&client).await;
    is_told(&refused, "short of disk");
    assert!(refused.message().contains("storage.reserve_bytes"), "{}", refused.message());
    println!(
        "refused after {offered} records, with {} bytes free",
        metric(&server, "flotilla_disk_free_bytes")
    );
    reads(&client).await;
    let gone = client.remove(COLLECTION, (0..BATCH).map(api::number_key).collect()).await.unwrap();
    assert!(gone > 0, "deletions are taken");
    assert_eq!(
        metric(&server, "flotilla_log{figure=\"lanes_full\"}"),
        0.0,
        "the reserve is used up: {}",
        server.log()
    );
    std::fs::remove_file(&ballast).unwrap();
    taken_again(&client, offered).await;
    reads(&client).await;
    server.terminate().unwrap();
}

/// While records come, what the accountant knows of explains most of what the process grew by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_explains_what_is_used() {
    // So much that what the process gives back of its start does not matter; or as `FLOTILLA_TEST_GROWTH` says.
    let said = std::env::var("FLOTILLA_TEST_GROWTH").unwrap_or_else(|_| "20000x1024".to_owned());
    let (rows, width) = said.split_once('x').unwrap();
    let (rows, width): (u64, usize) = (rows.parse().unwrap(), width.parse().unwrap());
    let dir = crate::folder();
    let settings = "storage:\n  seal_rows: 1000000\n  seal_bytes: 4294967296\n";
    let server = start(dir.path(), &dir.path().join("data"), settings);
    let client = server.client().await.unwrap();
    let spec = v1::CollectionSpec { partitions: 1, ..api::collection(COLLECTION, width as u32, vec![]) };
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let look = || [metric(&server, "flotilla_memory_usage_bytes"), metric(&server, "flotilla_memory_bytes{")];
    let first = look();
    let mut last = first;
    for from in (0..rows).step_by(BATCH as usize) {
        let record = |n| api::record(api::number_key(n), unit_vector(n, width), vec![]);
        client.put(COLLECTION, (from..from + BATCH).map(record).collect()).await.unwrap();
        // What grows is sealed once the writer is slow; the most that was ever counted is compared.
        let now = look();
        if now[1] > last[1] {
            last = now;
        }
    }
    let values = (rows as usize * width * 4) as f64;
    let [_, most] = [0, 1].map(|figure| last[figure] - first[figure]);
    assert!(most > values, "{most} of at least {values} are counted");
    // What the way of the writes took is freed by then, and given back a little later. What nobody writes to is sealed, and counted no more.
    let explained = eventually("what is counted explains what is used", SOON, async || {
        let again = api::record(api::number_key(0), unit_vector(0, width), vec![]);
        client.put(COLLECTION, vec![again]).await.unwrap();
        let now = look();
        let [grown, explained] = [0, 1].map(|figure| now[figure] - first[figure]);
        println!("{grown} bytes more are used, {explained} are counted");
        (explained > values && (0.5..=1.5).contains(&(explained / grown))).then_some(())
    });
    explained.await.unwrap();
    server.terminate().unwrap();
}

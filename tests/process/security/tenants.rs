//! Tenants of a real server: names, limits and folders of their own, and who goes on while another floods.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use flotilla_proto::refusal::tenant_limit;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_client::ClusterClient;
use flotilla_proto::v1::collections_client::CollectionsClient;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_tests::api;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::wait::eventually;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::*;

const DIMS: usize = 4;
/// Calls of one measurement.
const SONGS: usize = 1_000;

/// A caller with its key.
#[derive(Clone)]
struct Caller {
    channel: Channel,
    key: String,
}

impl Caller {
    fn new(server: &Process, key: &str) -> Caller {
        let channel = Endpoint::from_shared(server.url()).unwrap().timeout(CALL_WITHIN).connect_lazy();
        Caller { channel, key: key.to_owned() }
    }

    fn says<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("api-key", self.key.parse().unwrap());
        request
    }

    async fn create(&self, name: &str) -> Result<(), Status> {
        let spec = Some(api::collection(name, DIMS as u32, vec![]));
        let request = self.says(v1::CreateCollectionRequest { spec });
        CollectionsClient::new(self.channel.clone()).create(request).await.map(drop)
    }

    async fn names(&self) -> Vec<String> {
        let request = self.says(v1::ListCollectionsRequest {});
        let answer = CollectionsClient::new(self.channel.clone()).list(request).await.unwrap().into_inner();
        answer.collections.into_iter().map(|c| c.spec.unwrap().name).collect()
    }

    async fn put(&self, name: &str, keys: std::ops::Range<u64>) -> Result<(), Status> {
        let record = |n| api::record(api::number_key(n), unit_vector(n, DIMS), vec![]);
        let records = keys.map(record).collect();
        let request = v1::UpsertRequest { collection: name.into(), records, ..Default::default() };
        RecordsClient::new(self.channel.clone()).upsert(self.says(request)).await.map(drop)
    }

    async fn delete(&self, name: &str, key: u64) {
        let keys = v1::KeyList { keys: vec![api::number_key(key)] };
        let target = Some(v1::delete_request::Target::Keys(keys));
        let request = v1::DeleteRequest { collection: name.into(), target, ..Default::default() };
        RecordsClient::new(self.channel.clone()).delete(self.says(request)).await.unwrap();
    }

    async fn count(&self, name: &str) -> Result<u64, Status> {
        let request = v1::CountRequest { collection: name.into(), ..Default::default() };
        let answer = RecordsClient::new(self.channel.clone()).count(self.says(request)).await?;
        Ok(answer.into_inner().count)
    }

    async fn usage(&self) -> Vec<v1::TenantUsage> {
        let request = self.says(v1::UsageRequest::default());
        ClusterClient::new(self.channel.clone()).usage(request).await.unwrap().into_inner().tenants
    }
}

fn settings(keys: &Path, isolation: &str, requests: u64) -> String {
    format!(
        "security:\n  api_keys_file: {}\ncluster:\n  partitions: 2\nhub:\n  enabled: true\n  \
         tenant_isolation: {isolation}\n  tenant_limits:\n    default:\n      max_collections: 2\n      \
         max_vectors_per_collection: 40\n      max_requests_per_minute: {requests}\n    \
         enterprise:\n      max_storage_bytes: 100000\n      max_requests_per_minute: 100000000\n",
        utf8(keys)
    )
}

/// The partitions whose folders lie in `home`.
fn folders(home: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(home).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    entries.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn limit(refused: Result<(), Status>) -> String {
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("tenant `acme`"), "{refused:?}");
    tenant_limit(&refused).expect("it says which limit")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_share_a_server_and_neither_names_nor_limits_nor_folders() {
    let dir = crate::folder();
    let keys = dir.path().join("keys.json");
    let made = |name: &str, tenant: &str| key(&keys, name, &["admin"], &["--tenant", tenant]);
    let (acme, beta, ops) = (made("a", "acme"), made("b", "beta"), key(&keys, "ops", &["admin"], &[]));
    let large = key(&keys, "c", &["admin"], &["--tenant", "large", "--class", "enterprise"]);
    let stray = key(&keys, "stray", &["read"], &[]);
    let server = Process::up(dir.path(), &settings(&keys, "storage", 100_000));
    let [a, b, o, l, s] = [&acme, &beta, &ops, &large, &stray].map(|key| Caller::new(&server, key));

    // The limits of the file reach the cluster soon after the start.
    let configured = async || {
        let usage = a.usage().await;
        (usage[0].limits.unwrap().max_collections == 2).then_some(())
    };
    eventually("the limits are there", SEEN_WITHIN, configured).await.unwrap();
    for caller in [&a, &b, &l] {
        caller.create("docs").await.unwrap();
    }
    a.put("docs", 0..20).await.unwrap();
    assert_eq!((a.count("docs").await.unwrap(), b.count("docs").await.unwrap()), (20, 0));
    assert_eq!(b.names().await, ["docs"]);
    assert_eq!(o.names().await, ["acme/docs", "beta/docs", "large/docs"]);
    assert_eq!(s.count("docs").await.unwrap_err().code(), Code::PermissionDenied);
    let absent = b.count("none").await.unwrap_err();
    assert_eq!(absent.message(), "there is no collection `none`");

    a.create("more").await.unwrap();
    assert_eq!(limit(a.create("third").await), "max_collections");
    l.create("more").await.unwrap();
    l.create("third").await.unwrap();
    // One record after the other, until no partition has room: exactly as many as there may be.
    let mut refused = 0;
    for n in 20..120 {
        match a.put("docs", n..n + 1).await {
            Ok(()) => {}
            Err(status) => {
                assert_eq!(limit(Err(status)), "max_vectors_per_collection");
                refused += 1;
            }
        }
    }
    assert_eq!((a.count("docs").await.unwrap(), refused), (40, 80));
    // What is there may be written anew, and what goes makes room.
    a.put("docs", 0..5).await.unwrap();
    a.delete("docs", 0).await;
    a.put("docs", 0..1).await.unwrap();
    assert_eq!(a.count("docs").await.unwrap(), 40);
    l.put("docs", 0..100).await.unwrap();
    // What is stored is added up now and then: soon nothing more is taken, and deletes still are.
    let mut next = 100;
    let full = async || {
        let wrote = l.put("docs", next..next + 100).await;
        next += 100;
        wrote.err()
    };
    let refused = eventually("the storage is used up", SEEN_WITHIN, full).await.unwrap();
    assert_eq!(tenant_limit(&refused).as_deref(), Some("max_storage_bytes"), "{refused:?}");
    l.delete("docs", 0).await;
    assert!(l.count("docs").await.unwrap() >= 99);

    let tenants = dir.path().join("data/tenants");
    let found = |tenant: &str| folders(&tenants.join(tenant));
    assert_eq!((found("acme").len(), found("beta").len(), found("large").len()), (4, 2, 6));
    assert_eq!(folders(&dir.path().join("data/partitions")).len(), 0);
    let before = (found("acme"), found("beta"));
    let own = a.usage().await;
    assert_eq!((own[0].collections, own[0].records, own[0].vectors), (2, 40, 40));
    assert_eq!(o.usage().await.len(), 3);
    put(dir.path(), "ops", &ops);
    let shown =
        done(&["tenants", "usage", "--to", &server.url(), "--api-key-file", utf8(&dir.path().join("ops"))]);
    assert!(shown.contains("acme") && shown.contains("2/2"), "{shown}");
    let page = flotilla_tests::http::get(server.address(), "/metrics").unwrap().body;
    assert!(
        page.contains("flotilla_tenant_refused_total{limit=\"max_collections\",tenant=\"acme\"} 1"),
        "{page}"
    );
    assert!(page.contains("flotilla_tenant_storage_bytes{tenant=\"acme\"}"), "{page}");
    server.terminate();
    server.drained();

    // After a restart, under another isolation, everything is where it was, and only what is new goes elsewhere.
    let server = Process::up(dir.path(), &settings(&keys, "collection", 100_000));
    let [a, b] = [&acme, &beta].map(|key| Caller::new(&server, key));
    assert_eq!((a.count("docs").await.unwrap(), b.count("docs").await.unwrap()), (40, 0));
    assert_eq!(limit(a.put("docs", 500..501).await), "max_vectors_per_collection");
    assert_eq!((found("acme"), found("beta")), before);
    b.create("plain").await.unwrap();
    assert_eq!((found("beta"), folders(&dir.path().join("data/partitions")).len()), (before.1, 2));
    server.terminate();
    server.drained();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_goes_on_while_another_tenant_floods() {
    let dir = crate::folder();
    let keys = dir.path().join("keys.json");
    let acme = key(&keys, "a", &["admin"], &["--tenant", "acme"]);
    // Of a class whose limit it does not reach.
    let canary = key(&keys, "b", &["admin"], &["--tenant", "canary", "--class", "enterprise"]);
    let server = Process::up(dir.path(), &settings(&keys, "collection", 600));
    let [flooder, canary] = [&acme, &canary].map(|key| Caller::new(&server, key));
    let configured = async || {
        let usage = flooder.usage().await;
        (usage[0].limits.unwrap().max_requests_per_minute == 600).then_some(())
    };
    eventually("the limits are there", SEEN_WITHIN, configured).await.unwrap();
    flooder.create("docs").await.unwrap();
    canary.create("docs").await.unwrap();
    canary.put("docs", 0..10).await.unwrap();
    let sing = async |during: &str| {
        let mut times = Vec::new();
        for _ in 0..SONGS {
            let began = Instant::now();
            assert_eq!(canary.count("docs").await.unwrap(), 10);
            times.push(began.elapsed());
        }
        times.sort_unstable();
        println!("{during}: p50 {:?}, p99 {:?}", times[SONGS / 2], times[SONGS * 99 / 100]);
    };
    sing("alone").await;

    let (is_over, answered, refused) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let flood = |_| {
        let (caller, is_over) = (flooder.clone(), is_over.clone());
        let (answered, refused) = (answered.clone(), refused.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                match caller.count("docs").await {
                    Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        })
    };
    let floods: Vec<_> = (0..16).map(flood).collect();
    let flooded = async || (refused.load(Ordering::Relaxed) > 200).then_some(());
    eventually("the flood is refused", SEEN_WITHIN, flooded).await.unwrap();
    // Well within its own limit, the canary is never refused.
    sing("beside the flood").await;
    is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 0 && refused.load(Ordering::Relaxed) > 200);
    server.terminate();
    server.drained();
}

/// How long two routers are asked for more than the tenant may.
const FLOODED_FOR: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_together_admit_what_a_tenant_may() {
    /// Requests per minute: so many that a second has enough of them to count.
    const PER_MINUTE: u64 = 3_000;
    /// Of each router: enough that each could admit all alone, though a refusal is kept back.
    const CALLERS: usize = 16;
    let dir = crate::folder();
    let keys = dir.path().join("keys.json");
    let acme = key(&keys, "a", &["admin"], &["--tenant", "acme"]);
    let config = put(dir.path(), "flotilla.yaml", settings(&keys, "collection", PER_MINUTE));
    let data = dir.path().join("data");
    let ports = ["--port", "0", "--peer-port", "0"];
    let node =
        Process::start(&[&["node", "--data", utf8(&data), "--config", utf8(&config)][..], &ports].concat());
    let address = node.address().to_string();
    let router = || Process::start(&["router", "--port", "0", "--config", utf8(&config), "--node", &address]);
    let routers = [router(), router()];
    let callers = routers.each_ref().map(|router| Caller::new(router, &acme));
    let configured = async || {
        let usage = callers[0].usage().await;
        (usage[0].limits.unwrap().max_requests_per_minute == PER_MINUTE).then_some(())
    };
    eventually("the limits are there", SEEN_WITHIN, configured).await.unwrap();
    callers[0].create("docs").await.unwrap();

    let began = Instant::now();
    let flood = |caller: &Caller| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let mut admitted = 0_u64;
            while began.elapsed() < FLOODED_FOR {
                match caller.count("docs").await {
                    Ok(_) => admitted += 1,
                    Err(status) => assert_eq!(limit(Err(status)), "max_requests_per_minute"),
                }
            }
            admitted
        })
    };
    let floods: Vec<_> =
        callers.iter().flat_map(|caller| (0..CALLERS).map(|_| flood(caller)).collect::<Vec<_>>()).collect();
    let mut admitted = 0.0;
    for flood in floods {
        admitted += flood.await.unwrap() as f64;
    }
    let (may, burst) = (began.elapsed().as_secs_f64() * PER_MINUTE as f64 / 60.0, PER_MINUTE as f64 / 30.0);
    println!("{admitted} admitted, {may:.0} may be, and {burst} at the start");
    assert!(admitted >= 0.95 * may && admitted <= 1.05 * (may + burst), "{admitted} of {may}");
    for process in routers.into_iter().chain([node]) {
        process.terminate();
        process.drained();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_never_stores_more_than_it_may_however_fast_it_writes() {
    const BYTES_MAX: u64 = 4_000_000;
    const TEXT_BYTES: usize = 2_000;
    let dir = crate::folder();
    let keys = dir.path().join("keys.json");
    let large = key(&keys, "c", &["admin"], &["--tenant", "large", "--class", "enterprise"]);
    let limit_of = |bytes: u64| format!("max_storage_bytes: {bytes}\n");
    let text = settings(&keys, "storage", 100_000).replace(&limit_of(100_000), &limit_of(BYTES_MAX));
    let server = Process::up(dir.path(), &text);
    let caller = Caller::new(&server, &large);
    let configured = async || {
        let usage = caller.usage().await;
        (usage[0].limits.unwrap().max_storage_bytes == BYTES_MAX).then_some(())
    };
    eventually("the limits are there", SEEN_WITHIN, configured).await.unwrap();
    caller.create("docs").await.unwrap();
    let put = async |caller: &Caller, from: u64| {
        let text = "x".repeat(TEXT_BYTES);
        let record = |n| {
            api::record(api::number_key(n), unit_vector(n, DIMS), vec![("text", api::text(text.as_str()))])
        };
        let records = (from..from + 10).map(record).collect();
        let request = v1::UpsertRequest { collection: "docs".into(), records, ..Default::default() };
        RecordsClient::new(caller.channel.clone()).upsert(caller.says(request)).await.map(drop)
    };
    // Several at once, faster than anybody adds up; each until it was refused a few times.
    let writers = (0..8_u64).map(|writer| {
        let caller = caller.clone();
        async move {
            let (mut next, mut refused) = (writer << 32, 0);
            while refused < 3 {
                match put(&caller, next).await {
                    Ok(()) => next += 10,
                    Err(status) => {
                        assert_eq!(tenant_limit(&status).as_deref(), Some("max_storage_bytes"), "{status:?}");
                        refused += 1;
                    }
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    let stored = caller.count("docs").await.unwrap() * TEXT_BYTES as u64;
    println!("{stored} of {BYTES_MAX} bytes");
    assert!((BYTES_MAX * 8 / 10..=BYTES_MAX).contains(&stored), "{stored} of {BYTES_MAX}");
    // Nothing more, whenever it is asked, but where something went.
    assert!(put(&caller, 9 << 32).await.is_err());
    server.terminate();
    server.drained();
}

//! What an operator and their machines look at: metrics, liveness, readiness, health, reflection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::http;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};

const SOON: Duration = Duration::from_secs(60);
const SERVICES: [&str; 4] =
    ["flotilla.v1.Collections", "flotilla.v1.Records", "flotilla.v1.Search", "flotilla.v1.Cluster"];

/// Asks the server for something of every kind, so that every metric has been touched.
async fn use_it(client: &Api) {
    let spec = api::collection("c", 4, vec![]);
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let row = |n: u64| api::record(api::number_key(n), unit_vector(n, 4), vec![("n", api::int(n as i64))]);
    client.put("c", (0..50).map(row).collect()).await.unwrap();
    client.search(api::search("c", unit_vector(1, 4), 5)).await.unwrap();
    client.search(api::search("nope", unit_vector(1, 4), 5)).await.unwrap_err();
    client.scan_all("c", None).await.unwrap();
    client.total("c", None).await.unwrap();
    client.remove("c", vec![api::number_key(1)]).await.unwrap();
}

/// Samples by name, and what is not in the text format of Prometheus.
fn parse(text: &str) -> (BTreeMap<String, Vec<f64>>, Vec<String>) {
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut wrong, mut helped, mut typed) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help)) if !help.is_empty() => {
                helped.insert(name.to_owned());
            }
            (Some("#"), Some("TYPE"), Some(name), Some("counter" | "gauge" | "histogram")) => {
                typed.insert(name.to_owned(), ());
            }
            _ => match sample(line) {
                Some((name, value)) => samples.entry(name).or_default().push(value),
                None => wrong.push(format!("not a sample: {line}")),
            },
        }
    }
    for name in samples.keys() {
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part).filter(|f| typed.contains_key(*f)));
        let family = family.unwrap_or(name);
        if !typed.contains_key(family) || !helped.contains(family) {
            wrong.push(format!("{name} has no HELP and TYPE before it"));
        }
    }
    (samples, wrong)
}

/// `name{label="value",...} 1.5`
fn sample(line: &str) -> Option<(String, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let is_label = |label: &str| {
        label.split_once('=').is_some_and(|(name, value)| {
            is_name(name) && value.len() >= 2 && value.starts_with('"') && value.ends_with('"')
        })
    };
    let is_good = is_name(name) && (labels.is_empty() || labels.split(',').all(is_label));
    Some((name.to_owned(), value.parse().ok()?)).filter(|_| is_good)
}

/// Names of metrics that the README promises: words like `flotilla_something` in backquotes.
fn promised() -> BTreeSet<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(readme).unwrap_or_default();
    let words = text.split('`').skip(1).step_by(2);
    let is_metric = |word: &&str| {
        word.starts_with("flotilla_")
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let crates = ["flotilla_proto", "flotilla_node", "flotilla_router", "flotilla_client", "flotilla_tests"];
    words.filter(is_metric).filter(|word| !crates.contains(word)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_are_what_scrapers_and_probes_expect() {
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    use_it(&client).await;
    for page in ["/livez", "/readyz"] {
        let answer = http::get(server.address(), page).unwrap();
        assert_eq!(answer.status, 200, "{page}: {answer:?}");
    }
    let nothing = http::get(server.address(), "/nothing").unwrap();
    assert!(!nothing.body.contains("panicked"), "{nothing:?}");
    // What is measured behind a search's back comes a moment after it.
    let measured = eventually("a search was compared with a scan", SOON, async || {
        let page = http::get(server.address(), "/metrics").unwrap();
        page.body.contains("flotilla_recall_at_k{").then_some(page)
    });
    let page = measured.await.unwrap();
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/plain"), "{}", page.head);
    let (samples, wrong) = parse(&page.body);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(samples.len() >= 10, "only {:?}", samples.keys());
    assert!(samples.keys().all(|name| name.starts_with("flotilla_")), "{:?}", samples.keys());
    let records: f64 = samples["flotilla_partition_records"].iter().sum();
    assert_eq!(records, 49.0, "the gauge of records");
    let families =
        |name: &String| samples.contains_key(name) || samples.contains_key(&format!("{name}_count"));
    let missing: Vec<String> = promised().into_iter().filter(|name| !families(name)).collect();
    assert!(missing.is_empty(), "the README names metrics that are not there: {missing:?}");
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_and_watched() {
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    let mut health = HealthClient::new(client.channel());
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest { service: service.to_owned() };
        // The server says that it is ready, and then tells its health one service after the other.
        let mut told = health.watch(request.clone()).await.unwrap().into_inner();
        while told.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nope".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    let request = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.signal_terminate().unwrap();
    let told = tokio::time::timeout(Duration::from_secs(30), watch.message())
        .await
        .expect("the watch tells the drain");
    if let Ok(Some(next)) = told {
        assert_ne!(next.status(), ServingStatus::Serving, "told Serving while it drains");
    }
    drop((watch, health, client));
    server.drained().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_public_services() {
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    let mut reflection = ServerReflectionClient::new(client.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) =
        answer.message_response
    else {
        panic!("no list of services")
    };
    let names: BTreeSet<String> = service.into_iter().map(|service| service.name).collect();
    for wanted in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.contains(wanted), "{wanted} is not among {names:?}");
    }
    drop((reflection, client));
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placement_map_is_told_and_watched() {
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    let mut cluster = v1::cluster_client::ClusterClient::new(client.channel());
    let mut maps = cluster.watch(v1::WatchRequest { after_epoch: 0 }).await.unwrap().into_inner();
    let mut epoch = maps.message().await.unwrap().unwrap().epoch;
    use_it(&client).await;
    while let Some(map) = maps.message().await.unwrap() {
        assert!(map.epoch > epoch, "the epoch goes from {epoch} to {}", map.epoch);
        epoch = map.epoch;
        if map.collections.len() == 1 {
            break;
        }
    }
    let shown = || async { client.describe(v1::DescribeRequest {}).await.unwrap().placement };
    let map = eventually("the map has the collection", Duration::from_secs(10), || async {
        shown().await.filter(|map| map.collections.len() == 1)
    });
    let map = map.await.unwrap();
    let placed = &map.collections[0];
    assert_eq!(placed.slots.len(), 1_024);
    assert!(placed.slots.iter().all(|owner| (*owner as usize) < placed.partitions.len()));
    assert_eq!(placed.partitions.len(), 4);
    drop((maps, cluster, client));
    server.terminate().unwrap();
}

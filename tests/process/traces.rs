//! Traces of the real binary, as a collector sees them: one trace through client, router, leader and the leader's log; and
//! servers whose collector is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_client::{Client, CollectionSpec, Distance, IndexKind, Record, Search, VectorSpec};
use flotilla_tests::cluster::{Cluster, Shape};
use flotilla_tests::http;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

const COLLECTION: &str = "docs";
const WITHIN: Duration = Duration::from_secs(20);
const NODE: &str = "flotilla-node";
const ROUTER: &str = "flotilla-router";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A span, and the service that it is of.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    span: Span,
}

impl Seen {
    fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    fn number(&self, name: &str) -> Option<i64> {
        let value = self.span.attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?;
        match value.value {
            Some(Value::IntValue(number)) => Some(number),
            _ => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector in this process, which keeps all that it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_one in request.into_inner().resource_spans {
            let attributes = of_one.resource.map(|resource| resource.attributes).unwrap_or_default();
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match name.and_then(|name| name.value?.value) {
                Some(Value::StringValue(name)) => name,
                other => panic!("a service without a name: {other:?}"),
            };
            let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let seen = spans.map(|span| Seen { service: service.clone(), span });
            self.0.lock().unwrap().extend(seen);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves on a free port, for as long as the runtime runs.
    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        at
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    /// The spans, once a node's of this name is there, with all above it up to the router's.
    async fn whole(&self, last: &str) -> Vec<Seen> {
        let what = format!("the collector has a span {last} and those above it");
        let whole = eventually(&what, WITHIN, async || {
            let seen = self.seen();
            let is_whole = line(&seen, last).last().is_some_and(|top| top.parent() == SPAN);
            is_whole.then_some(seen)
        });
        whole.await.unwrap_or_else(|why| panic!("{why}: {:?}", self.seen()))
    }
}

/// The node's span of this name, its parent, and so on.
fn line(seen: &[Seen], name: &str) -> Vec<Seen> {
    let by_id: BTreeMap<String, &Seen> = seen.iter().map(|seen| (seen.id(), seen)).collect();
    let first = seen.iter().find(|seen| seen.service == NODE && seen.span.name == name);
    std::iter::successors(first, |seen| by_id.get(&seen.parent()).copied()).cloned().collect()
}

fn names(line: &[Seen]) -> Vec<(&str, &str)> {
    line.iter().map(|seen| (seen.service.as_str(), seen.span.name.as_str())).collect()
}

fn spec() -> CollectionSpec {
    let vector = VectorSpec::new(2, Distance::Cosine, IndexKind::default());
    CollectionSpec {
        name: COLLECTION.into(),
        vectors: [("default".into(), vector)].into(),
        partitions: 1,
        ..Default::default()
    }
}

fn record() -> Record {
    Record::new("a").vector("default", vec![1.0, 0.5])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_the_client_to_the_log() {
    let collector = Collector::default();
    let at = collector.serve().await;
    let mut shape = Shape::of(3, 0, 1);
    // Nobody begins a trace but who says so.
    shape.environment = vec![
        ("FLOTILLA_TELEMETRY_OTLP_ENDPOINT", format!("http://{at}")),
        ("FLOTILLA_TELEMETRY_SAMPLE_RATIO", "0".to_owned()),
    ];
    let cluster = Cluster::start(crate::binary(), shape).await.unwrap();
    let untraced = Client::connect(&cluster.urls()[0]).await.unwrap();
    untraced.create_collection(&spec()).await.unwrap();
    cluster.caught_up(COLLECTION).await.unwrap();
    untraced.upsert(COLLECTION, vec![record()]).await.unwrap();

    let client = untraced.clone().within_trace(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
    client.upsert(COLLECTION, vec![record()]).await.unwrap();
    let seen = collector.whole("replicate").await;
    let written = line(&seen, "replicate");
    let expected = [
        (NODE, "replicate"),
        (NODE, "propose"),
        (NODE, "flotilla.shard.v1.Shard/Write"),
        (ROUTER, "flotilla.shard.v1.Shard/Write"),
        (ROUTER, "flotilla.v1.Records/Upsert"),
    ];
    assert_eq!(names(&written), expected, "{written:#?}");
    let partition = cluster.placement(COLLECTION).await.unwrap().partitions[0].id as i64;
    assert_eq!(written[0].number("partition"), Some(partition));
    assert_eq!(written[2].number("partition"), Some(partition), "{:?}", written[2]);
    assert!(written[0].number("log_index") > Some(0), "{:?}", written[0]);
    assert!(seen.iter().all(|seen| hex(&seen.span.trace_id) == TRACE), "what is not sampled is not exported");

    collector.forget();
    client.search(COLLECTION, Search::new(vec![1.0, 0.5]).limit(1)).await.unwrap();
    let seen = collector.whole("flotilla.shard.v1.Shard/Search").await;
    let found = line(&seen, "flotilla.shard.v1.Shard/Search");
    let expected = [
        (NODE, "flotilla.shard.v1.Shard/Search"),
        (ROUTER, "flotilla.shard.v1.Shard/Search"),
        (ROUTER, "flotilla.v1.Search/Search"),
    ];
    assert_eq!(names(&found), expected, "{found:#?}");
    assert_eq!(found[0].number("partition"), Some(partition), "{:?}", found[0]);
    assert!(seen.iter().all(|seen| hex(&seen.span.trace_id) == TRACE));
}

/// A series of `/metrics`.
fn figure(at: SocketAddr, series: &str) -> Option<f64> {
    let page = http::get(at, "/metrics").unwrap();
    let value = page.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    value.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_is_told_once_and_hinders_nobody() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = crate::folder();
    let config = dir.path().join("flotilla.yaml");
    let settings = format!("telemetry:\n  otlp_endpoint: http://{nobody}\n  sample_ratio: 1\n");
    std::fs::write(&config, settings).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let server = Server::start(crate::binary(), &dir.path().join("data"), &config).unwrap();
    let (client, at) = (Client::connect(&server.url()).await.unwrap(), server.address());
    client.create_collection(&spec()).await.unwrap();
    client.upsert(COLLECTION, vec![record()]).await.unwrap();
    let dropped = "flotilla_trace_spans_dropped_total{reason=\"export\"}";
    eventually("spans are dropped and counted", WITHIN, async || figure(at, dropped).filter(|n| *n > 0.0))
        .await
        .unwrap();
    client.upsert(COLLECTION, vec![record()]).await.unwrap();
    assert_eq!(figure(at, "flotilla_trace_spans_exported_total"), Some(0.0));
    let told = |log: &str| log.matches("traces are dropped").count();
    assert_eq!(told(&server.log()), 1, "{}", server.log());
    server.terminate().unwrap();
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::pin::pin;
use std::task::Waker;

use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tonic::codegen::http::{HeaderMap, HeaderValue, Uri};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

const UPSERT: &str = "/flotilla.v1.Records/Upsert";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What is current when the work runs, as the next hop would read it.
async fn next_hop() -> Result<Response<HeaderMap>, Infallible> {
    let mut request = request("/flotilla.shard.v1.Shard/Write");
    let hop = Hop::leaving(&mut request);
    hop.answering(async { Ok(Response::new(request.headers().clone())) }).await
}

fn request(path: &'static str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_static(path);
    request
}

/// One that brings a trace along.
fn traced() -> Request<()> {
    let mut request = request(UPSERT);
    request.headers_mut().insert("traceparent", HeaderValue::from_static(PARENT));
    request
}

async fn served(hop: Hop) -> HeaderMap {
    hop.answering(next_hop()).await.unwrap().into_body()
}

#[test]
fn what_a_stranger_wrote_is_read_whole_or_not_at_all() {
    let known = header::parse(PARENT).unwrap();
    assert_eq!(known.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert!(known.is_sampled() && known.is_remote());
    assert!(header::parse(&format!("01{}-later", &PARENT[2..])).is_some(), "a later version");
    let zeros = |from: usize, digits: usize| {
        let mut text = PARENT.to_owned();
        text.replace_range(from..from + digits, &"0".repeat(digits));
        text
    };
    let hostile = [
        "",
        "-",
        "---",
        "00",
        &PARENT[..54],
        &format!("{PARENT}-more"),
        &format!("ff{}", &PARENT[2..]),
        &PARENT.to_uppercase(),
        &PARENT.replace("0af", "0ä"),
        &PARENT.replace("0af", "+af"),
        &zeros(3, 32),
        &zeros(36, 16),
        &"0".repeat(1 << 16),
    ];
    for text in hostile {
        assert!(header::parse(text).is_none(), "{text}");
    }
}

#[tokio::test]
async fn a_process_that_exports_nothing_hands_on_what_it_was_handed() {
    let mut given = traced();
    given.headers_mut().insert("tracestate", HeaderValue::from_static("vendor=1"));
    let told = served(Hop::arriving(&given, "api", true)).await;
    assert_eq!(told, *given.headers());
    let none = served(Hop::arriving(&request(UPSERT), "api", true)).await;
    assert!(none.is_empty(), "{none:?}");
    let told = Hop::within(PARENT).unwrap().around(next_hop()).await.unwrap().into_body();
    assert_eq!(told["traceparent"], PARENT);
    assert!(!is_traced(), "it ends with the work");
}

/// A request's way through a process, without what it does there.
fn pass(arrives: &Request<()>, leaves: &mut Request<()>) {
    let arriving = Hop::arriving(arrives, "api", true);
    let work = async {
        about(7, &"collection");
        let _step = step!("propose", partition = 7);
        let hop = Hop::leaving(leaves);
        hop.answering(async { Ok::<_, Infallible>(Response::new(())) }).await
    };
    let ended = pin!(arriving.answering(work)).poll(&mut Poller::from_waker(Waker::noop()));
    assert!(ended.is_ready());
}

#[test]
fn without_an_exporter_and_a_header_nothing_is_allocated() {
    let (arrives, mut leaves) = (request(UPSERT), request(UPSERT));
    // The first one makes what a thread and a callsite have once.
    pass(&arrives, &mut leaves);
    assert_eq!(allocation_counter::measure(|| pass(&arrives, &mut leaves)).count_total, 0);
    assert!(leaves.headers().is_empty());
}

/// The spans of `work`, by name.
async fn spans(work: impl Future<Output = ()>) -> Vec<SpanData> {
    use tracing::instrument::WithSubscriber as _;
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    work.with_subscriber(tracing_subscriber::registry().with(layer)).await;
    exporter.get_finished_spans().unwrap()
}

#[tokio::test]
async fn each_hop_is_a_span_and_the_child_of_the_one_before() {
    let mut told = HeaderMap::new();
    let spans = spans(async {
        let hop = Hop::arriving(&traced(), "api", true);
        let work = async {
            about(7, &"docs");
            next_hop().await
        };
        told = hop.answering(work).await.unwrap().into_body();
    })
    .await;
    let one = |kind: SpanKind| spans.iter().find(|span| span.span_kind == kind).unwrap();
    let (served, called) = (one(SpanKind::Server), one(SpanKind::Client));
    let parent = header::parse(PARENT).unwrap();
    assert_eq!(served.name, "flotilla.v1.Records/Upsert");
    assert_eq!(
        (served.parent_span_id, called.parent_span_id),
        (parent.span_id(), served.span_context.span_id())
    );
    assert!(spans.iter().all(|span| span.span_context.trace_id() == parent.trace_id()));
    assert_eq!(header::read(&told).unwrap().span_id(), called.span_context.span_id());
    let has = |key: &str| served.attributes.iter().any(|known| known.key.as_str() == key);
    assert!(
        ["partition", "collection", "rpc.grpc.status_code"].into_iter().all(has),
        "{:?}",
        served.attributes
    );
}

#[tokio::test]
async fn only_a_public_call_begins_a_trace() {
    let begun = async |path: &'static str, may_begin| {
        spans(async { drop(served(Hop::arriving(&request(path), "api", may_begin)).await) }).await.len()
    };
    assert_eq!(begun("/flotilla.v1.Search/Search", true).await, 2);
    assert_eq!(begun("/flotilla.v1.Search/Search", false).await, 0);
    assert_eq!(begun("/grpc.health.v1.Health/Check", true).await, 0);
}

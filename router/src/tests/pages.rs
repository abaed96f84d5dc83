//! The port: pages over HTTP/1.1 beside gRPC, health, reflection, and going down.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

async fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn one_port_serves_grpc_health_reflection_and_pages_and_drains() {
    let house = House::with_records(10).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let serving =
        tokio::spawn(server::listen(listener, house.router.clone(), server::Options::default(), shutdown));

    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut search = SearchClient::new(channel.clone());
    assert_eq!(search.search(nearest(3.0, 2)).await.unwrap().into_inner().hits.len(), 2);

    let mut health = HealthClient::new(channel.clone());
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watch = health.watch(check("flotilla.v1.Search")).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    assert_eq!(health.check(check("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
    assert_eq!(reflected(channel.clone()).await, 6);

    assert!(page(address, "/livez").await.ends_with("alive\n"));
    assert!(page(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = page(address, "/metrics").await;
    for name in [
        "flotilla_operation_duration_seconds_bucket{operation=\"search\",le=\"0.0005\"}",
        "flotilla_operations_total{code=\"Ok\",operation=\"search\"} 1",
        "flotilla_search_latency_seconds_bucket{le=\"0.025\"} 1",
        "flotilla_request_queue_depth{class=\"read\"} 0",
        "flotilla_requests_running{class=\"read\"} 0",
        "flotilla_router_retries_total 0",
        "flotilla_router_circuit_opens_total 0",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    assert!(page(address, "/nothing").await.contains("grpc-status: 7"));

    stop.send(()).unwrap();
    let mut last = ServingStatus::Serving;
    while let Ok(Some(told)) = watch.message().await {
        last = told.status();
    }
    assert_eq!(last, ServingStatus::NotServing);
    drop((search, health, channel, watch));
    tokio::time::timeout(SOON, serving).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// How many services reflection lists.
async fn reflected(channel: Channel) -> usize {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            let public = |name: &str| name.starts_with("flotilla.v1.") || name.starts_with("grpc.");
            list.service.iter().filter(|s| public(&s.name)).count()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_node_the_router_lives_but_is_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { nodes: vec!["127.0.0.1:1".into()], ..Options::default() };
    let router = Router::start(options, None, Registry::new()).unwrap();
    tokio::spawn(server::listen(listener, router, server::Options::default(), std::future::pending()));
    assert!(page(address, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(page(address, "/readyz").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_clearly() {
    let house = House::with_collection().await;
    let big = Record::new(1).field("text", "x".repeat(MESSAGE_BYTES_MAX + 1));
    let mut records = house.records.clone().max_encoding_message_size(usize::MAX);
    let refused = records.upsert(upsert([big].into_iter())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains("67108864"), "{}", refused.message());
}

//! The port: gRPC (HTTP/2) with health and reflection, and `/metrics`, `/livez`, `/readyz` (HTTP/1.1 or 2) beside it.
//!
//! Readiness means: a placement map is known and a node answered lately; gRPC health says the same. Liveness depends on
//! nobody. Going down: health says `NOT_SERVING`, after [`Options::lame_duck`] no new connection or call is taken, what is
//! under way may finish within [`Options::drain_max`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use flotilla_port::Kind;
use flotilla_proto::access::{Authenticator, Gate, Right, Rights};
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::passed::records_server::RecordsServer;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::v1::cluster_server::ClusterServer;
use flotilla_proto::v1::collections_server::CollectionsServer;
use flotilla_proto::v1::search_server::SearchServer;
use flotilla_security::tls::Door;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::layer_fn;

use crate::Router;
use crate::service::Edge;

/// What a server can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long calls are still taken after health says `NOT_SERVING`. Default 0; in a cluster, a few seconds.
    pub lame_duck: Duration,
    /// How long calls under way may go on then. Default 25 s.
    pub drain_max: Duration,
    /// Who knows the callers. Default: nobody has to say who it is.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Encrypts connections to the TCP port. Default: none, they are plain.
    pub door: Option<Door>,
    /// Whether `/metrics` takes no credentials. Default true.
    pub metrics_open: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lame_duck: Duration::ZERO,
            drain_max: Duration::from_secs(25),
            authenticator: None,
            door: None,
            metrics_open: true,
        }
    }
}

/// The pipes of this process: as the port of clients, whose streams may be idle.
const IN_PROCESS: Kind = Kind { name: "inproc", may_idle: true, ..Kind::CLIENTS };
/// The services whose health is told; the empty name stands for all.
const HEALTH_NAMES: [&str; 5] =
    ["", "flotilla.v1.Collections", "flotilla.v1.Records", "flotilla.v1.Search", "flotilla.v1.Cluster"];

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves on a TCP port until `shutdown`, then drains.
///
/// # Errors
/// If the server cannot be set up.
pub async fn listen(
    listener: TcpListener,
    router: Arc<Router>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let door = router.doors.door(Kind::CLIENTS).behind(options.door.clone());
    let serving = move |routes, stop| async move { door.listen(listener, routes, stop).await };
    drained(router, options, shutdown, serving).await
}

/// Serves the connections of `incoming` until `shutdown`, then drains.
///
/// # Errors
/// If the server cannot be set up.
pub async fn serve<I, IO>(
    incoming: I,
    router: Arc<Router>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure>
where
    I: Stream<Item = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let door = router.doors.door(Kind::CLIENTS);
    let serving = move |routes, stop| async move { door.serve(incoming, routes, stop).await };
    drained(router, options, shutdown, serving).await
}

/// Serves until `shutdown`; what is under way then has [`Options::drain_max`].
async fn drained<F>(
    router: Arc<Router>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
    serving: impl FnOnce(axum::Router, BoxFuture<'static, ()>) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = ()>,
{
    let health = HealthReporter::new();
    tell(&health, ServingStatus::NotServing).await;
    let routes = routes(&router, &health, &options)?;
    let (closing, closed) = watch::channel(false);
    let readiness = router.placement.readiness();
    let stop = async move {
        follow(&health, readiness, shutdown).await;
        tell(&health, ServingStatus::NotServing).await;
        tokio::time::sleep(options.lame_duck).await;
        router.drain();
        forget(health).await;
        closing.send_replace(true);
    };
    tokio::select! {
        () = serving(routes, Box::pin(stop)) => {}
        () = overdue(closed, options.drain_max) => tracing::warn!("calls were cut off: the drain took too long"),
    }
    Ok(())
}

/// Completes `drain_max` after the server began to close.
async fn overdue(mut closed: watch::Receiver<bool>, drain_max: Duration) {
    let is_closing = closed.wait_for(|is_closing| *is_closing).await.is_ok();
    if is_closing {
        tokio::time::sleep(drain_max).await;
    } else {
        std::future::pending().await
    }
}

/// Tells health what readiness is, until `shutdown`.
async fn follow(
    health: &HealthReporter,
    mut ready: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        let is_ready = *ready.borrow_and_update();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        tell(health, status).await;
        tokio::select! {
            () = &mut shutdown => return,
            changed = ready.changed() => if changed.is_err() { return },
        }
    }
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Ends the streams of who watches the health: they would keep their connections open.
async fn forget(mut health: HealthReporter) {
    for name in HEALTH_NAMES {
        health.clear_service_status(name).await;
    }
}

/// All services, behind the table of access rules, and pages.
fn routes(router: &Arc<Router>, health: &HealthReporter, options: &Options) -> Result<axum::Router, Failure> {
    let edge = Edge(router.clone());
    macro_rules! service {
        ($server:ident) => {
            $server::new(edge.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.clone()),
    );
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(flotilla_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let authenticator = options.authenticator.clone();
    let gate = layer_fn(move |inner| Gate::new(inner, Rights::DATA, authenticator.clone()));
    let calls = axum::Router::new()
        .route_service("/flotilla.v1.Collections/{*rest}", service!(CollectionsServer))
        .route_service("/flotilla.v1.Records/{*rest}", service!(RecordsServer))
        .route_service("/flotilla.v1.Search/{*rest}", service!(SearchServer))
        .route_service("/flotilla.v1.Cluster/{*rest}", service!(ClusterServer))
        .route_service("/grpc.health.v1.Health/{*rest}", health)
        .route_service("/grpc.reflection.v1.ServerReflection/{*rest}", reflection)
        .fallback(unimplemented)
        .layer(gate);
    Ok(pages(router, options).merge(calls))
}

/// A call that the rules admit and that another port serves.
async fn unimplemented() -> axum::http::Response<tonic::body::Body> {
    tonic::Status::unimplemented("this port does not serve that method").into_http()
}

fn pages(router: &Arc<Router>, options: &Options) -> axum::Router {
    let guard = options.authenticator.clone().filter(|_| !options.metrics_open);
    let metrics = router.metrics.clone();
    let readiness = router.placement.readiness();
    let draining = router.draining();
    let text = move |request: axum::extract::Request| async move {
        if let Err(refused) = may_see_metrics(guard.as_deref(), &request) {
            return (StatusCode::UNAUTHORIZED, [(CONTENT_TYPE, "text/plain")], format!("{refused}\n"));
        }
        match metrics.page().answer(request.headers()) {
            Ok((kind, text)) => (StatusCode::OK, [(CONTENT_TYPE, kind)], text),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], format!("{e}\n")),
        }
    };
    let ready = move || async move {
        match (*readiness.borrow(), *draining.borrow()) {
            (true, false) => (StatusCode::OK, "ready\n"),
            (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "going down\n"),
            (false, false) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no node has told the placement map lately\n")
            }
        }
    };
    axum::Router::new()
        .route("/metrics", get(text))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}

/// Whether a call over HTTP that changes the cluster is to be obeyed: of who may administer all of it, and is no tenant's.
///
/// # Errors
/// Why not.
pub fn may_administer(
    guard: Option<&dyn Authenticator>,
    request: &axum::extract::Request,
) -> Result<(), Refusal> {
    may(guard, request, Right::Admin)
}

/// Whether a page that tells of every collection may be shown: to who may read all of them, and is no tenant's.
///
/// # Errors
/// Why not.
pub fn may_see_metrics(
    guard: Option<&dyn Authenticator>,
    request: &axum::extract::Request,
) -> Result<(), Refusal> {
    may(guard, request, Right::Read)
}

fn may(
    guard: Option<&dyn Authenticator>,
    request: &axum::extract::Request,
    right: Right,
) -> Result<(), Refusal> {
    let Some(guard) = guard else { return Ok(()) };
    let caller = guard.caller(request.headers(), request.extensions())?;
    if caller.tenant.is_some() {
        let why = format!("{}: belongs to a tenant, and this page is about all", caller.name);
        return Err(Refusal::Denied(why));
    }
    caller.check(right, None)
}

/// Serves `router` to this process alone and gives the channel to it. The server's task ends with the last channel.
pub fn in_process(router: Arc<Router>, options: Options) -> Channel {
    in_process_until(router, options, std::future::pending()).0
}

/// As [`in_process`], until `shutdown`; also gives the server's task, which ends when the drain is over.
pub fn in_process_until(
    router: Arc<Router>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (Channel, tokio::task::JoinHandle<()>) {
    let (connector, listener) = crate::inproc::pair();
    let task = tokio::spawn(async move {
        let door = router.doors.door(IN_PROCESS);
        let serving = move |routes, stop| async move { door.serve(listener, routes, stop).await };
        if let Err(e) = drained(router, options, shutdown, serving).await {
            tracing::error!(error = %e, "the in-process server ended");
        }
    });
    (connector.channel(), task)
}

//! A node's data port: what routers call, gRPC health, and `/metrics`, `/livez`, `/readyz` beside it.
//!
//! Readiness means: a member that knows the map and has opened its replicas, and is not going down. Liveness depends on
//! nobody.

mod downscale;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use flotilla_node::server::{Node, guarded};
use flotilla_port::{Door, Doors};
use flotilla_proto::access::{Authenticator, Rights};
use flotilla_router::server::may_see_metrics;
use flotilla_trace::Page;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::security::Security;
use crate::telemetry::Telemetry;

/// Calls under way may go on for this long when the node goes down.
const DRAIN_MAX: Duration = Duration::from_secs(15);

/// The port of one node.
#[derive(Clone)]
pub struct Port {
    page: Page,
    health: HealthReporter,
    readiness: Arc<watch::Sender<bool>>,
    members: Option<Arc<dyn Authenticator>>,
    readers: Option<Arc<dyn Authenticator>>,
    operators: Option<Arc<dyn Authenticator>>,
}

impl Port {
    /// Not ready yet.
    ///
    /// # Errors
    /// If the node's metrics contradict each other.
    pub fn new(
        node: &Node,
        doors: &Doors,
        security: &Security,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Port> {
        let page = Page::default();
        doors.collectors().into_iter().try_for_each(|one| page.register(one))?;
        page.register(Box::new(node.gauges()))?;
        node.timings().iter().try_for_each(|timings| page.time(timings))?;
        security.register(page.registry())?;
        telemetry.register(page.registry())?;
        let members = security.trust.members_all();
        // Who reads metrics is no member: its credentials are those of the public API, where there are some.
        let operators = security.callers.clone().or(members.clone());
        let readers = operators.clone().filter(|_| !security.metrics_open);
        let (health, readiness) = (HealthReporter::new(), Arc::new(watch::Sender::new(false)));
        Ok(Port { page, health, readiness, members, readers, operators })
    }

    /// Tells health and `/readyz`.
    pub async fn is_ready(&self, is_ready: bool) {
        self.readiness.send_replace(is_ready);
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
    }

    /// Serves until `shutdown`, then finishes what is under way.
    pub async fn serve(
        self,
        door: Door,
        listener: TcpListener,
        node: Arc<Node>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(self.health.clone()),
        );
        let calls = guarded(node.routes().add_service(health), Rights::DATA, self.members.clone());
        let downscale = downscale::route(node.clone(), self.operators.clone());
        let routes = calls.into_axum_router().merge(self.pages()).merge(downscale);
        let (closing, closed) = watch::channel(false);
        let told = async move {
            shutdown.await;
            closing.send_replace(true);
        };
        tokio::select! {
            () = door.listen(listener, routes, told) => {}
            () = overdue(closed) => {}
        }
    }

    fn pages(&self) -> axum::Router {
        let page = self.page.clone();
        let readers = self.readers.clone();
        let text = move |request: axum::extract::Request| async move {
            if let Err(refused) = may_see_metrics(readers.as_deref(), &request) {
                return (StatusCode::UNAUTHORIZED, [(CONTENT_TYPE, "text/plain")], format!("{refused}\n"));
            }
            match page.answer(request.headers()) {
                Ok((kind, text)) => (StatusCode::OK, [(CONTENT_TYPE, kind)], text),
                Err(e) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], format!("{e}\n"))
                }
            }
        };
        let readiness = self.readiness.subscribe();
        let ready = move || async move {
            if *readiness.borrow() {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not a member yet, or going down\n")
            }
        };
        axum::Router::new()
            .route("/metrics", get(text))
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
    }
}

/// Completes some time after the drain began: a router's watch of the map never ends by itself.
async fn overdue(mut closed: watch::Receiver<bool>) {
    if closed.wait_for(|is_closing| *is_closing).await.is_ok() {
        tokio::time::sleep(DRAIN_MAX).await;
    } else {
        std::future::pending().await
    }
}

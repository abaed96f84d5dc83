//! What the router counts and times. Registered in the registry that is handed in, so that an embedded node and its router
//! appear on one page.

use std::future::Future;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector,
};
use tokio::time::Instant;
use tonic::Status;

/// Upper edges of the latency buckets, in seconds: they hit the targets that users are promised.
const EDGES: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0];

/// The router's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    duration: HistogramVec,
    operations: IntCounterVec,
    search: prometheus::Histogram,
    /// Requests that wait for a permit.
    pub queue_depth: IntGauge,
    /// Calls to nodes that were sent again.
    pub retries: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If the registry holds one of the names already.
    pub fn new(registry: Registry) -> Result<Metrics, prometheus::Error> {
        let seconds = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(EDGES.to_vec());
        let metrics = Metrics {
            duration: HistogramVec::new(
                seconds("flotilla_operation_duration_seconds", "Time of an operation at the router"),
                &["operation"],
            )?,
            operations: IntCounterVec::new(
                Opts::new("flotilla_operations_total", "Operations by their gRPC status code"),
                &["operation", "code"],
            )?,
            search: prometheus::Histogram::with_opts(seconds(
                "flotilla_search_latency_seconds",
                "Time of a search at the router, answered or refused",
            ))?,
            queue_depth: IntGauge::new("flotilla_request_queue_depth", "Requests that wait for a permit")?,
            retries: IntCounter::new("flotilla_retries_total", "Calls to nodes that were sent again")?,
            registry,
        };
        let all: [Box<dyn Collector>; 5] = [
            Box::new(metrics.duration.clone()),
            Box::new(metrics.operations.clone()),
            Box::new(metrics.search.clone()),
            Box::new(metrics.queue_depth.clone()),
            Box::new(metrics.retries.clone()),
        ];
        all.into_iter().try_for_each(|one| metrics.registry.register(one))?;
        Ok(metrics)
    }

    /// Times `work` as one `operation` and counts how it ended.
    pub async fn measure<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let started = Instant::now();
        let result = work.await;
        let seconds = started.elapsed().as_secs_f64();
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.duration.with_label_values(&[operation]).observe(seconds);
        self.operations.with_label_values(&[operation, &format!("{code:?}")]).inc();
        if operation == "search" {
            self.search.observe(seconds);
        }
        result
    }

    /// The whole registry in the text format.
    ///
    /// # Errors
    /// If a collector in it is inconsistent.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

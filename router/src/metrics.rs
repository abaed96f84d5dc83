//! What the router counts and times. Registered in the registry that is handed in, so that an embedded node and its router
//! appear on one page.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use flotilla_proto::v1::Coverage;
use flotilla_trace::{Page, Timings};
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

use crate::coverage::Covered;

/// Operations that ask replicas.
const READS: [&str; 4] = ["get", "search", "scan", "count"];

/// The name of all collections but the first so many.
const OTHER: &str = "other";
/// Collections that have series of their own.
const NAMED_MAX: usize = 100;

/// Gauges of the requests, by class.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Those that wait for a permit.
    pub waiting: IntGaugeVec,
    /// Those that have one.
    pub running: IntGaugeVec,
}

/// The router's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    page: Page,
    duration: Timings,
    operations: IntCounterVec,
    search: Timings,
    collections: Timings,
    named: Arc<Mutex<HashSet<String>>>,
    /// Requests that wait for a permit, and that have one.
    pub queues: Queues,
    /// Calls to nodes that were sent again.
    pub retries: IntCounter,
    /// Reads that were sent to a second replica because the first was slow, by operation.
    pub hedges: IntCounterVec,
    /// Hedges that answered before the first replica, by operation.
    pub hedges_won: IntCounterVec,
    /// Times that a node was put last because it did not answer.
    pub circuit_opens: IntCounter,
    /// Answers that lack a partition, by operation.
    pub partial_answers: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If the page holds one of the names already.
    pub fn new(page: Page) -> Result<Metrics, prometheus::Error> {
        let by_operation = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["operation"]);
        let by_class = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["class"]);
        let metrics = Metrics {
            duration: Timings::new(
                "flotilla_operation_duration_seconds",
                "Time of an operation at the router",
                &["operation"],
            )?,
            operations: IntCounterVec::new(
                Opts::new("flotilla_operations_total", "Operations by their gRPC status code"),
                &["operation", "code"],
            )?,
            search: Timings::new(
                "flotilla_search_latency_seconds",
                "Time of a search at the router, answered or refused",
                &[],
            )?,
            collections: Timings::new(
                "flotilla_collection_duration_seconds",
                "Time of an answered read or write at the router, by collection; of the first 100 by name",
                &["collection", "class"],
            )?,
            named: Arc::default(),
            queues: Queues {
                waiting: by_class("flotilla_request_queue_depth", "Requests that wait for a permit")?,
                running: by_class("flotilla_requests_running", "Requests that have a permit")?,
            },
            retries: IntCounter::new("flotilla_router_retries_total", "Calls to nodes that were sent again")?,
            hedges: by_operation(
                "flotilla_router_hedges_total",
                "Reads sent to a second replica because the first was slow",
            )?,
            hedges_won: by_operation(
                "flotilla_router_hedges_won_total",
                "Hedges that answered before the first replica",
            )?,
            circuit_opens: IntCounter::new(
                "flotilla_router_circuit_opens_total",
                "Times that a node was put last because it did not answer",
            )?,
            partial_answers: by_operation(
                "flotilla_router_partial_answers_total",
                "Answers that lack a partition, as their callers allowed",
            )?,
            page,
        };
        let all: [Box<dyn Collector>; 8] = [
            Box::new(metrics.operations.clone()),
            Box::new(metrics.queues.waiting.clone()),
            Box::new(metrics.queues.running.clone()),
            Box::new(metrics.retries.clone()),
            Box::new(metrics.hedges.clone()),
            Box::new(metrics.hedges_won.clone()),
            Box::new(metrics.circuit_opens.clone()),
            Box::new(metrics.partial_answers.clone()),
        ];
        all.into_iter().try_for_each(|one| metrics.page.register(one))?;
        let timings = [&metrics.duration, &metrics.search, &metrics.collections];
        timings.into_iter().try_for_each(|one| metrics.page.time(one))?;
        // What has not happened yet is told as 0: a rate over what is not there has no answer.
        for counter in [&metrics.hedges, &metrics.hedges_won, &metrics.partial_answers] {
            READS.iter().for_each(|read| drop(counter.with_label_values(&[*read])));
        }
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
        self.duration.observe(&[operation], seconds);
        self.operations.with_label_values(&[operation, &format!("{code:?}")]).inc();
        if operation == "search" {
            self.search.observe(&[], seconds);
        }
        result
    }

    /// The coverage of an answer to `operation` for the wire; a partial one is counted.
    ///
    /// # Errors
    /// If no partition answered.
    pub fn covered(&self, operation: &'static str, covered: Covered) -> Result<Coverage, Status> {
        let is_partial = covered.is_partial();
        let coverage = covered.told()?;
        if is_partial {
            self.partial_answers.with_label_values(&[operation]).inc();
        }
        Ok(coverage)
    }

    /// A request of this class on a collection was answered, after so long.
    pub fn collection(&self, collection: &str, class: &'static str, time: Duration) {
        self.collections.observe(&[self.name(collection), class], time.as_secs_f64());
    }

    /// The name under which a collection is counted: its own, unless there are too many.
    fn name<'a>(&self, collection: &'a str) -> &'a str {
        let mut named = self.named.lock();
        if named.contains(collection) {
            return collection;
        }
        if named.len() >= NAMED_MAX {
            return OTHER;
        }
        named.insert(collection.to_owned());
        collection
    }

    /// All that is told of this process.
    pub fn page(&self) -> &Page {
        &self.page
    }
}

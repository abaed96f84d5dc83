//! What the binary tells about itself while it runs: log lines on standard error, and traces to a collector.
//!
//! [`log`] sets both up, once, before anything else happens; spans of hops ([`flotilla_trace::TARGET`]) have no taker then and cost
//! nothing. [`Telemetry::open`] gives them one if the configuration names a collector. Spans wait in a bounded queue, and a task
//! sends them in batches by OTLP over gRPC. Nothing waits for it: a span that finds the queue full is dropped and counted, and so
//! is a batch that the collector does not take; that it does not is logged once, until it does again. [`Telemetry::close`]
//! sends what waits, within a bounded time.
//!
//! A trace is exported if its caller's is; where the caller says nothing, by chance (`telemetry.sample_ratio`). Collectors are
//! spoken to in plain text: one that is not on this machine or in a trusted network is reached through one that is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use flotilla_trace::TARGET;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::layer::{self, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, reload};

/// Spans that wait for their export, at most.
const QUEUE_MAX: usize = 8_192;
/// Spans of one message to the collector, at most.
const BATCH_MAX: usize = 512;
/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_millis(200);
/// How long the collector may take for a batch.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// How long it may take for all that waits at the end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// `telemetry.*`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The collector; none: nothing is exported.
    pub otlp_endpoint: Option<String>,
    /// Share of the traces that begin here and are exported.
    pub sample_ratio: f64,
    /// What the process is called in traces.
    pub service_name: Option<String>,
}

/// The layer that makes spans of hops OpenTelemetry's, once there is where to send them.
type Hops = Option<OpenTelemetryLayer<tracing_subscriber::Registry, SdkTracer>>;

static HOPS: OnceLock<reload::Handle<Hops, tracing_subscriber::Registry>> = OnceLock::new();
static IS_EXPORTING: AtomicBool = AtomicBool::new(false);

/// Spans of hops, while they are exported.
struct OfHops;

impl<S: Subscriber> Filter<S> for OfHops {
    fn enabled(&self, metadata: &Metadata<'_>, _: &layer::Context<'_, S>) -> bool {
        metadata.target() == TARGET && IS_EXPORTING.load(Ordering::Relaxed)
    }

    /// Asked again when that changes, and not for each span.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let is_wanted = metadata.target() == TARGET && IS_EXPORTING.load(Ordering::Relaxed);
        if is_wanted { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// Logs what passes `filter`, on standard error, and is ready to trace. Once in a process.
pub fn log(filter: EnvFilter) {
    let (hops, handle) = reload::Layer::new(None);
    let _is_first = HOPS.set(handle);
    let filter = match format!("{TARGET}=off").parse() {
        Ok(no_hops) => filter.add_directive(no_hops),
        Err(_) => filter,
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_filter(filter);
    #[cfg(feature = "tokio-console")]
    let lines = lines.and_then(console_subscriber::spawn());
    tracing_subscriber::registry().with(hops.with_filter(OfHops)).with(lines).init();
}

/// The traces of a server.
#[derive(Debug)]
pub struct Telemetry {
    figures: Figures,
    exporting: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Clone, Debug)]
struct Figures {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl Figures {
    fn new() -> Result<Figures, prometheus::Error> {
        let help = "Spans that were not exported: their queue was full, or the collector did not take them";
        let dropped = IntCounterVec::new(Opts::new("flotilla_trace_spans_dropped_total", help), &["reason"])?;
        ["queue", "export"].iter().for_each(|reason| drop(dropped.with_label_values(&[reason])));
        let help = "Spans that the collector of traces took";
        Ok(Figures { exported: IntCounter::new("flotilla_trace_spans_exported_total", help)?, dropped })
    }

    fn dropped(&self, reason: &str, spans: usize) {
        self.dropped.with_label_values(&[reason]).inc_by(spans as u64);
    }
}

impl Telemetry {
    /// Begins to export, if the options name a collector. It need not be there. Within a tokio runtime.
    ///
    /// # Errors
    /// If what they name is none.
    pub fn open(options: &Options, role: &'static str) -> anyhow::Result<Telemetry> {
        let figures = Figures::new()?;
        let (Some(endpoint), Some(hops)) = (&options.otlp_endpoint, HOPS.get()) else {
            return Ok(Telemetry { figures, exporting: None });
        };
        let exporter = exporter(endpoint, options, role)?;
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_span_processor(Queue { queue, figures: figures.clone() })
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_tracer(provider.tracer("flotilla"));
        IS_EXPORTING.store(true, Ordering::Relaxed);
        hops.reload(Some(layer)).context("telemetry.otlp_endpoint")?;
        let (close, closed) = oneshot::channel();
        let export =
            Export { endpoint: endpoint.clone(), exporter, figures: figures.clone(), has_failed: false };
        Ok(Telemetry { figures, exporting: Some((close, tokio::spawn(export.run(spans, closed)))) })
    }

    /// Puts its figures on a page.
    ///
    /// # Errors
    /// If they are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.figures.exported.clone()))?;
        registry.register(Box::new(self.figures.dropped.clone()))
    }

    /// Sends what waits, and ends.
    pub async fn close(self) {
        let Some((close, running)) = self.exporting else { return };
        drop(close);
        if tokio::time::timeout(CLOSE_MAX, running).await.is_err() {
            tracing::warn!("the last spans were not exported: the collector took too long");
        }
    }
}

fn exporter(endpoint: &str, options: &Options, role: &'static str) -> anyhow::Result<SpanExporter> {
    if !endpoint.starts_with("http://") {
        anyhow::bail!("telemetry.otlp_endpoint: must begin with http://, got `{endpoint}`");
    }
    let built = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_MAX).build();
    let mut exporter = built.with_context(|| format!("telemetry.otlp_endpoint: `{endpoint}`"))?;
    let name = options.service_name.clone().unwrap_or_else(|| role.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    exporter.set_resource(&Resource::builder().with_service_name(name).with_attribute(version).build());
    Ok(exporter)
}

/// Where spans that have ended go.
#[derive(Debug)]
struct Queue {
    queue: mpsc::Sender<SpanData>,
    figures: Figures,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.try_send(span).is_err() {
            self.figures.dropped("queue", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The other end of the queue.
struct Export {
    endpoint: String,
    exporter: SpanExporter,
    figures: Figures,
    has_failed: bool,
}

impl Export {
    /// Until `closed`, and until nothing waits then.
    async fn run(mut self, mut spans: mpsc::Receiver<SpanData>, mut closed: oneshot::Receiver<()>) {
        let mut is_closed = false;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                _ = spans.recv_many(&mut batch, BATCH_MAX) => {}
                _ = &mut closed, if !is_closed => is_closed = true,
            }
            if batch.len() < BATCH_MAX && !is_closed {
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    _ = &mut closed => is_closed = true,
                }
            }
            if is_closed {
                // From here on no span gets in: the queue says when it is empty.
                spans.close();
            }
            while let Some(span) = (batch.len() < BATCH_MAX).then(|| spans.try_recv().ok()).flatten() {
                batch.push(span);
            }
            if batch.is_empty() && is_closed {
                return;
            }
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.has_failed = false;
                self.figures.exported.inc_by(count as u64);
            }
            Err(why) => {
                self.figures.dropped("export", count);
                if !std::mem::replace(&mut self.has_failed, true) {
                    let endpoint = &self.endpoint;
                    tracing::warn!(%why, endpoint, "traces are dropped until the collector takes them");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The page of metrics: in Prometheus' text format, or as OpenMetrics 1.0 with exemplars for a scraper that accepts it.
//!
//! What OpenMetrics wants otherwise: a counter's family is named without `_total`, edges of buckets are floats (`1.0`), each
//! family says its type before its help, and the page ends with `# EOF`.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::ACCEPT;

use crate::timings::{Timings, values};

#[cfg(test)]
mod tests;

/// The type of the plain format.
const PLAIN: &str = "text/plain; version=0.0.4";
/// The type of the other one, as it is asked for, and as it is answered.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that one page tells. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    registry: Registry,
    timings: Arc<RwLock<Vec<Timings>>>,
}

impl From<Registry> for Page {
    fn from(registry: Registry) -> Page {
        Page { registry, timings: Arc::default() }
    }
}

impl Page {
    /// Tells these too.
    ///
    /// # Errors
    /// If one of their names is taken.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.registry.register(collector)
    }

    /// Tells these times too, with their exemplars.
    ///
    /// # Errors
    /// If their name is taken.
    pub fn time(&self, timings: &Timings) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(timings.clone()))?;
        self.timings.write().push(timings.clone());
        Ok(())
    }

    /// The registry itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The page in the format that a scraper with these headers takes, and the format's type.
    ///
    /// # Errors
    /// If a collector is inconsistent.
    pub fn answer(&self, headers: &HeaderMap) -> Result<(&'static str, String), prometheus::Error> {
        let families = self.registry.gather();
        if accepts_open_metrics(headers) {
            let timings = self.timings.read();
            return Ok((OPEN_METRICS_TYPE, open_metrics(&families, &timings)));
        }
        Ok((PLAIN, TextEncoder::new().encode_to_string(&families)?))
    }
}

/// Whether the scraper names the format, and does not put it below all others (`q=0`).
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepted.flat_map(|accept| accept.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(OPEN_METRICS));
        let is_refused =
            |part: &str| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f64));
        is_named && !parts.any(is_refused)
    })
}

/// A label's value or a help text, with what would end it escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

/// A number as the format has it: a float always shows that it is one.
fn float(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => format!("{value:?}"),
    }
}

/// `{a="1",b="2"}`, with one more label if there is one; nothing if there is none.
fn labels(pairs: &[LabelPair], more: Option<(&str, &str)>) -> String {
    let pairs = pairs.iter().map(|pair| (pair.name(), pair.value())).chain(more);
    let all: Vec<String> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

/// All families, and the end.
fn open_metrics(families: &[MetricFamily], timings: &[Timings]) -> String {
    let mut text = String::new();
    for family in families {
        let exemplars = timings.iter().find(|timings| timings.name() == family.name());
        family_to(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

/// Writes one family. Writing to a string does not fail.
fn family_to(text: &mut String, family: &MetricFamily, timings: Option<&Timings>) {
    let whole = family.name();
    let (name, kind) = match (family.get_field_type(), whole.strip_suffix("_total")) {
        (MetricType::COUNTER, Some(name)) => (name, "counter"),
        (MetricType::GAUGE, _) => (whole, "gauge"),
        (MetricType::HISTOGRAM, _) => (whole, "histogram"),
        // A counter that is not named as one, and what is not used here.
        _ => (whole, "unknown"),
    };
    let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {}", escaped(family.help()));
    let order = timings.map(Timings::labels).unwrap_or_default();
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::HISTOGRAM => histogram_to(text, name, metric, timings, &order),
            MetricType::COUNTER => line(text, whole, metric, metric.get_counter().get_value()),
            _ => line(text, whole, metric, metric.get_gauge().get_value()),
        }
    }
}

fn line(text: &mut String, name: &str, metric: &Metric, value: f64) {
    let _ = writeln!(text, "{name}{} {}", labels(metric.get_label(), None), float(value));
}

fn histogram_to(text: &mut String, name: &str, metric: &Metric, timings: Option<&Timings>, order: &[String]) {
    let histogram = metric.get_histogram();
    let pairs = metric.get_label();
    let known = values(metric, order);
    let edges = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let last = (f64::INFINITY, histogram.get_sample_count());
    // The registry leaves the last bucket out, whose count is that of all.
    let edges = edges.filter(|(edge, _)| edge.is_finite()).chain([last]);
    for (n, (edge, count)) in edges.enumerate() {
        let labels = labels(pairs, Some(("le", &float(edge))));
        let _ = write!(text, "{name}_bucket{labels} {count}");
        if let Some(exemplar) = timings.and_then(|timings| timings.exemplar(&known, n)) {
            let (trace, seconds) = (escaped(&exemplar.trace), float(exemplar.seconds));
            let at = exemplar.at.as_secs_f64();
            let _ = write!(text, " # {{trace_id=\"{trace}\"}} {seconds} {at:.3}");
        }
        text.push('\n');
    }
    let labels = labels(pairs, None);
    let _ = writeln!(text, "{name}_sum{labels} {}", float(histogram.get_sample_sum()));
    let _ = writeln!(text, "{name}_count{labels} {}", histogram.get_sample_count());
}

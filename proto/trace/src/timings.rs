//! Histograms of times that remember, for each bucket, the last trace that fell into it: its **exemplar**. Only traces that are
//! exported are remembered, so that there is something to be found under their ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{HistogramOpts, HistogramVec};

/// Upper edges of the buckets, in seconds: they hit the targets that users are promised.
const EDGES: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0];

/// A trace, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its id.
    pub trace: String,
    /// The time that fell into the bucket, in seconds.
    pub seconds: f64,
    /// When, after 1970.
    pub at: Duration,
}

/// The exemplars of one histogram, by its buckets; the last one is that of no upper edge.
type Buckets = [Option<Exemplar>; EDGES.len() + 1];

/// A family of histograms. Clones share it.
#[derive(Clone, Debug)]
pub struct Timings {
    name: &'static str,
    histograms: HistogramVec,
    exemplars: Arc<Mutex<HashMap<Vec<String>, Buckets>>>,
}

impl Timings {
    /// None yet.
    ///
    /// # Errors
    /// If the names are none that a metric and its labels may have.
    pub fn new(
        name: &'static str,
        help: &str,
        labels: &[&'static str],
    ) -> Result<Timings, prometheus::Error> {
        let histograms = HistogramVec::new(HistogramOpts::new(name, help).buckets(EDGES.to_vec()), labels)?;
        if labels.is_empty() {
            // What there is one of is there from the start.
            drop(histograms.with_label_values::<&str>(&[]));
        }
        Ok(Timings { name, histograms, exemplars: Arc::default() })
    }

    /// Something that took so long; the current trace becomes an exemplar if it is exported.
    pub fn observe(&self, labels: &[&str], seconds: f64) {
        self.histograms.with_label_values(labels).observe(seconds);
        if let Some(trace) = crate::exported() {
            let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            let mut exemplars = self.exemplars.lock();
            let bucket = EDGES.iter().position(|edge| seconds <= *edge).unwrap_or(EDGES.len());
            exemplars.entry(labels).or_default()[bucket] = Some(Exemplar { trace, seconds, at });
        }
    }

    /// Keeps the histograms whose first label's value `is_there` still.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let order = self.labels();
        for family in self.histograms.collect() {
            for metric in family.get_metric() {
                let known = values(metric, &order);
                if known.first().is_some_and(|first| !is_there(first)) {
                    // One that has just been forgotten is as good.
                    let _ = self.histograms.remove_label_values(&known);
                    self.exemplars.lock().remove(&known);
                }
            }
        }
    }

    /// The family's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The exemplar of a bucket, by the labels' values in the order of their declaration.
    pub(crate) fn exemplar(&self, labels: &[String], bucket: usize) -> Option<Exemplar> {
        self.exemplars.lock().get(labels)?.get(bucket)?.clone()
    }

    /// The labels' names in the order of their declaration.
    pub(crate) fn labels(&self) -> Vec<String> {
        self.histograms.desc().first().map(|desc| desc.variable_labels.clone()).unwrap_or_default()
    }
}

/// The values of a histogram's labels, in this order of their names.
pub(crate) fn values(metric: &Metric, order: &[String]) -> Vec<String> {
    let value = |name: &String| metric.get_label().iter().find(|pair| pair.name() == name);
    order.iter().filter_map(value).map(|pair| pair.value().to_owned()).collect()
}

impl Collector for Timings {
    fn desc(&self) -> Vec<&Desc> {
        self.histograms.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.histograms.collect()
    }
}

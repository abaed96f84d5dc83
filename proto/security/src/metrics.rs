//! What is counted: files that could not be read again, calls that were refused, handshakes that failed, and lines of the
//! audit log that were lost.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// The counters; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    reloads_failed: IntCounterVec,
    refused: IntCounterVec,
    handshakes_failed: IntCounter,
    audit_lost: IntCounter,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// Never: the names are good. It is told all the same.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let labelled =
            |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let plain = |name: &str, help: &str| IntCounter::with_opts(Opts::new(name, help));
        let metrics = Metrics {
            reloads_failed: labelled(
                "flotilla_security_reload_failures_total",
                "Files of keys or certificates that changed and could not be read; the old ones stay in force",
                "what",
            )?,
            refused: labelled(
                "flotilla_security_refused_total",
                "Calls refused because of who called",
                "reason",
            )?,
            handshakes_failed: plain(
                "flotilla_tls_handshake_failures_total",
                "Connections that ended in their TLS handshake",
            )?,
            audit_lost: plain(
                "flotilla_audit_lost_total",
                "Lines of the audit log that could not be written",
            )?,
        };
        for reason in ["unauthenticated", "denied"] {
            metrics.refused.with_label_values(&[reason]);
        }
        for what in ["keys", "tokens", "cluster key", "certificates"] {
            metrics.reloads_failed.with_label_values(&[what]);
        }
        Ok(metrics)
    }

    pub(crate) fn reload_failed(&self, what: &str) {
        self.reloads_failed.with_label_values(&[what]).inc();
    }

    pub(crate) fn refused(&self, is_known: bool) {
        self.refused.with_label_values(&[if is_known { "denied" } else { "unauthenticated" }]).inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    pub(crate) fn audit_lost(&self) {
        self.audit_lost.inc();
    }

    /// Files that changed and could not be read, of this kind.
    pub fn reload_failures(&self, what: &str) -> u64 {
        self.reloads_failed.with_label_values(&[what]).get()
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        let parts: [&dyn Collector; 4] =
            [&self.reloads_failed, &self.refused, &self.handshakes_failed, &self.audit_lost];
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let parts: [&dyn Collector; 4] =
            [&self.reloads_failed, &self.refused, &self.handshakes_failed, &self.audit_lost];
        parts.into_iter().flat_map(Collector::collect).collect()
    }
}

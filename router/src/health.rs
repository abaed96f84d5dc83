//! Which nodes answer lately, and how fast.
//!
//! A node that fails [`FAILURES_MAX`] times in a row (a broken connection, or no answer in time) gets its **circuit** opened for
//! a short, jittered, growing time: it is then asked last. After that time one call at a time may try it again; an answer
//! of any kind closes the circuit. Nothing is ever refused because of a circuit: it only orders the replicas.
//!
//! Speed is a smoothed time to answer. What is known fades with its age, so that a node that was slow once is asked again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::metrics::Metrics;

/// Failures in a row that open a circuit.
pub(crate) const FAILURES_MAX: u32 = 3;
/// How long a circuit is open: the first time, and at most.
const OPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A probe that has not ended by now is taken for lost.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// The weight of the newest time in the smoothed one.
const NEWEST: f64 = 0.2;
/// The age at which half of a time is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Nodes remembered, at most.
const NODES_MAX: usize = 4_096;

/// The nodes as one router finds them.
#[derive(Debug)]
pub(crate) struct Health {
    nodes: Mutex<HashMap<NodeId, Circuit>>,
    chance: Arc<Chance>,
    metrics: Metrics,
}

impl Health {
    /// Nothing known: every node is taken for healthy.
    pub(crate) fn new(chance: Arc<Chance>, metrics: Metrics) -> Health {
        Health { nodes: Mutex::default(), chance, metrics }
    }

    /// Whether `node` may be asked before those whose circuit is open.
    pub(crate) fn may_ask(&self, node: NodeId, now: Instant) -> bool {
        self.nodes.lock().get(&node).is_none_or(|circuit| circuit.may_ask(now))
    }

    /// A call to `node` begins; if its circuit was open long enough, this is the probe.
    pub(crate) fn begins(&self, node: NodeId, now: Instant) {
        if let Some(circuit) = self.nodes.lock().get_mut(&node) {
            circuit.begins(now);
        }
    }

    /// `node` gave an answer, after `time`; or a refusal, which tells nothing about its speed.
    pub(crate) fn answered(&self, node: NodeId, time: Option<Duration>, now: Instant) {
        self.with(node, |circuit| circuit.answered(time, now));
    }

    /// `node` could not be reached, broke off, or gave no answer in time.
    pub(crate) fn failed(&self, node: NodeId, now: Instant) {
        if self.with(node, |circuit| circuit.failed(now, &self.chance)) {
            self.metrics.circuit_opens.inc();
            tracing::warn!(node = node.0, "a node does not answer: it is asked last for a while");
        }
    }

    /// The smoothed time of `node`; zero if nothing is known.
    pub(crate) fn time(&self, node: NodeId, now: Instant) -> Duration {
        self.nodes.lock().get(&node).map_or(Duration::ZERO, |circuit| circuit.time(now))
    }

    fn with<T>(&self, node: NodeId, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut nodes = self.nodes.lock();
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            nodes.clear();
        }
        change(nodes.entry(node).or_default())
    }
}

/// One node. Pure: the clock and chance are handed in.
#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    opened: u32,
    open_until: Option<Instant>,
    probe: Option<Instant>,
    time: Option<(f64, Instant)>,
}

impl Circuit {
    fn may_ask(&self, now: Instant) -> bool {
        let Some(until) = self.open_until else { return true };
        let is_probed = self.probe.is_some_and(|since| now.saturating_duration_since(since) < PROBE_MAX);
        now >= until && !is_probed
    }

    fn begins(&mut self, now: Instant) {
        if self.open_until.is_some() && self.may_ask(now) {
            self.probe = Some(now);
        }
    }

    fn answered(&mut self, time: Option<Duration>, now: Instant) {
        (self.failures, self.opened, self.open_until, self.probe) = (0, 0, None, None);
        if let Some(time) = time {
            let new = time.as_secs_f64();
            let smooth = self.time.map_or(new, |(old, _)| old + (new - old) * NEWEST);
            self.time = Some((smooth, now));
        }
    }

    /// Returns whether this opened the circuit.
    fn failed(&mut self, now: Instant, chance: &Chance) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.probe = None;
        let is_open = self.open_until.is_some_and(|until| now < until);
        if self.failures < FAILURES_MAX || is_open {
            return false;
        }
        let whole = OPEN.0.saturating_mul(1 << self.opened.min(10)).min(OPEN.1);
        self.opened += 1;
        self.open_until = Some(now + chance.jitter(whole));
        true
    }

    fn time(&self, now: Instant) -> Duration {
        let Some((smooth, since)) = self.time else { return Duration::ZERO };
        let age = now.saturating_duration_since(since).as_secs_f64() / HALF_LIFE.as_secs_f64();
        Duration::from_secs_f64(smooth * 0.5f64.powf(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_and_closes_with_an_answer() {
        let (start, chance) = (Instant::now(), Chance::new(Some(1)));
        let mut circuit = Circuit::default();
        assert!(!circuit.failed(start, &chance) && !circuit.failed(start, &chance));
        circuit.answered(None, start);
        assert!(!circuit.failed(start, &chance) && !circuit.failed(start, &chance));
        assert!(circuit.may_ask(start));
        assert!(circuit.failed(start, &chance));
        assert!(!circuit.may_ask(start) && !circuit.failed(start, &chance), "it is open already");
        circuit.answered(None, start);
        assert!(circuit.may_ask(start));
    }

    #[test]
    fn one_probe_at_a_time_and_each_failed_one_opens_for_longer() {
        let (start, chance) = (Instant::now(), Chance::new(Some(1)));
        let mut circuit = Circuit::default();
        let mut now = start;
        let mut spans = Vec::new();
        for _ in 0..FAILURES_MAX {
            circuit.failed(now, &chance);
        }
        for _ in 0..8 {
            let until = circuit.open_until.unwrap();
            spans.push(until - now);
            assert!(!circuit.may_ask(until - Duration::from_millis(1)));
            now = until;
            assert!(circuit.may_ask(now));
            circuit.begins(now);
            assert!(!circuit.may_ask(now), "one probe at a time");
            assert!(circuit.may_ask(now + PROBE_MAX), "a lost probe does not hold it shut");
            assert!(circuit.failed(now, &chance));
        }
        assert!(spans[0] >= OPEN.0 / 2 && spans[0] <= OPEN.0);
        assert!(spans[7] > OPEN.1 / 2 - Duration::from_millis(1) && spans[7] <= OPEN.1);
    }

    #[test]
    fn times_are_smoothed_and_fade() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        assert_eq!(circuit.time(start), Duration::ZERO);
        let millis = Duration::from_millis;
        circuit.answered(Some(millis(100)), start);
        circuit.answered(Some(millis(200)), start);
        circuit.answered(None, start);
        assert_eq!(circuit.time(start), millis(120));
        assert_eq!(circuit.time(after(start, 10_000)), millis(60));
        assert!(circuit.time(after(start, 200_000)) < millis(1));
    }
}

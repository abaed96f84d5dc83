//! When to ask a second replica although the first may still answer: after the time in which 95 of 100 calls of that verb
//! are answered, and only for a small share of calls, so that a slow cluster is not made slower.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// A hedge is not sent earlier than this.
const AFTER_MIN: Duration = Duration::from_millis(10);
/// When a hedge is sent while too few calls are known.
const AFTER_UNKNOWN: Duration = Duration::from_millis(100);
/// Calls that must be known.
const CALLS_MIN: u32 = 20;
/// Share of calls that may be hedged, and how many in a row.
const SHARE: f64 = 0.05;
const BURST: f64 = 10.0;

/// How long each verb takes, and how many hedges are left.
#[derive(Debug, Default)]
pub(crate) struct Hedges {
    verbs: Mutex<HashMap<&'static str, Times>>,
    budget: Mutex<Budget>,
}

impl Hedges {
    /// A call of `verb` was answered after `time`.
    pub(crate) fn answered(&self, verb: &'static str, time: Duration) {
        self.verbs.lock().entry(verb).or_default().add(time);
        self.budget.lock().earn();
    }

    /// How long to wait for the first answer before a hedge is sent.
    pub(crate) fn after(&self, verb: &'static str) -> Duration {
        self.verbs.lock().get(verb).map_or(AFTER_UNKNOWN, Times::p95)
    }

    /// Whether one more hedge may be sent; if so, it is counted.
    pub(crate) fn take(&self) -> bool {
        self.budget.lock().take()
    }
}

/// A row of hedges that calls earn and hedges spend.
#[derive(Debug)]
struct Budget(f64);

impl Default for Budget {
    fn default() -> Budget {
        Budget(BURST)
    }
}

impl Budget {
    fn earn(&mut self) {
        self.0 = (self.0 + SHARE).min(BURST);
    }

    fn take(&mut self) -> bool {
        let is_enough = self.0 >= 1.0;
        if is_enough {
            self.0 -= 1.0;
        }
        is_enough
    }
}

const BUCKETS: usize = 48;
/// Calls after which the old ones count half.
const CALLS_MAX: u32 = 1_024;

/// Times by size: each bucket ends at the square root of two times the end of the one before; the first ends at 100 µs, the
/// last takes all that is longer.
#[derive(Debug)]
struct Times {
    counts: [u32; BUCKETS],
    calls: u32,
}

impl Default for Times {
    fn default() -> Times {
        Times { counts: [0; BUCKETS], calls: 0 }
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        let steps = (time.as_secs_f64() / 1e-4).max(1.0).log2() * 2.0;
        self.counts[(steps.ceil() as usize).min(BUCKETS - 1)] += 1;
        self.calls += 1;
        if self.calls >= CALLS_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.calls = self.counts.iter().sum();
        }
    }

    fn p95(&self) -> Duration {
        if self.calls < CALLS_MIN {
            return AFTER_UNKNOWN;
        }
        let mut above = self.calls / 20;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            if *count > above {
                return Duration::from_secs_f64(1e-4 * 2f64.powf(bucket as f64 / 2.0)).max(AFTER_MIN);
            }
            above -= count;
        }
        AFTER_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hedge_comes_after_the_95th_of_100_calls() {
        let hedges = Hedges::default();
        assert_eq!(hedges.after("get"), AFTER_UNKNOWN);
        for n in 1..=100 {
            hedges.answered("get", Duration::from_millis(if n <= 95 { 20 } else { 5_000 }));
        }
        let after = hedges.after("get");
        assert!((Duration::from_millis(20)..Duration::from_millis(29)).contains(&after), "{after:?}");
        for _ in 0..10 {
            hedges.answered("get", Duration::from_secs(5));
        }
        assert!(hedges.after("get") >= Duration::from_secs(5));
        for _ in 0..100 {
            hedges.answered("count", Duration::from_micros(80));
        }
        assert_eq!(hedges.after("count"), AFTER_MIN);
    }

    #[test]
    fn old_calls_fade() {
        let mut times = Times::default();
        (0..1_000).for_each(|_| times.add(Duration::from_secs(1)));
        (0..20_000).for_each(|_| times.add(Duration::from_millis(50)));
        assert!(times.p95() < Duration::from_millis(75));
        times.add(Duration::from_secs(1 << 40));
        assert!(times.calls < CALLS_MAX);
    }

    #[test]
    fn only_a_share_of_calls_is_hedged() {
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), BURST as usize);
        let hedged = (0..1_000).filter(|_| {
            budget.earn();
            budget.take()
        });
        assert!((49..=50).contains(&hedged.count()));
    }
}

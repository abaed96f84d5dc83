//! What is asked of the node: how long its searches take, and how many reads wait for their turn.
//!
//! Durations are counted in a few buckets, each a quarter wider than the one before, over the last half minute at least and
//! the last minute at most: two halves, of which the older one is forgotten when the newer one is full. So a figure costs a
//! few hundred bytes whatever the load is, and is right to a quarter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::env::clock;

/// How long durations go into one half.
const HALF: Duration = Duration::from_secs(30);
/// Buckets: the first ends at [`FIRST_MICROS`], the last at about a minute and takes whatever is longer.
const BUCKETS: usize = 60;
const FIRST_MICROS: f64 = 100.0;
const GROWTH: f64 = 1.25;

/// See the module.
#[derive(Debug)]
pub struct Load {
    waiting: AtomicU64,
    searches: Mutex<Searches>,
}

#[derive(Debug)]
struct Searches {
    began: clock::Instant,
    now: [u32; BUCKETS],
    before: [u32; BUCKETS],
}

/// A read that waits, until this is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Load);

impl Default for Load {
    fn default() -> Load {
        let searches = Searches { began: clock::now(), now: [0; BUCKETS], before: [0; BUCKETS] };
        Load { waiting: AtomicU64::new(0), searches: Mutex::new(searches) }
    }
}

impl Load {
    /// Counts a read that waits for its turn.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Reads that wait for their turn.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a search that took so long.
    pub fn searched(&self, took: Duration) {
        let mut searches = self.searches.lock();
        searches.turn();
        if let Some(count) = searches.now.get_mut(bucket(took)) {
            *count = count.saturating_add(1);
        }
    }

    /// How long all but one of a hundred searches of late took, at most; none: there were none.
    pub fn p99(&self) -> Option<Duration> {
        let mut searches = self.searches.lock();
        searches.turn();
        let both = searches
            .now
            .iter()
            .zip(&searches.before)
            .map(|(now, before)| u64::from(*now) + u64::from(*before));
        let counts: Vec<u64> = both.collect();
        let all: u64 = counts.iter().sum();
        let mut slower = all / 100;
        for (at, count) in counts.iter().enumerate().rev() {
            if *count > slower {
                return Some(end(at));
            }
            slower -= count;
        }
        None
    }
}

impl Searches {
    fn turn(&mut self) {
        let halves = self.began.elapsed().as_secs() / HALF.as_secs();
        if halves > 0 {
            self.before = if halves == 1 { self.now } else { [0; BUCKETS] };
            (self.now, self.began) = ([0; BUCKETS], clock::now());
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bucket(took: Duration) -> usize {
    let steps = (took.as_secs_f64() * 1e6 / FIRST_MICROS).max(1.0).log(GROWTH).ceil();
    (steps as usize).min(BUCKETS - 1)
}

fn end(bucket: usize) -> Duration {
    Duration::from_secs_f64(FIRST_MICROS * GROWTH.powi(i32::try_from(bucket).unwrap_or(0)) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_hundred_is_left_out_and_the_figure_is_right_to_a_quarter() {
        let load = Load::default();
        assert_eq!(load.p99(), None);
        (0..99).for_each(|_| load.searched(Duration::from_millis(8)));
        load.searched(Duration::from_secs(3));
        let p99 = load.p99().unwrap();
        assert!(p99 >= Duration::from_millis(8) && p99 <= Duration::from_millis(10), "{p99:?}");
        load.searched(Duration::from_secs(2));
        assert!(load.p99().unwrap() >= Duration::from_secs(2));
        load.searched(Duration::MAX);
    }

    #[test]
    fn who_waits_is_counted_until_it_does_not() {
        let load = Load::default();
        let first = load.wait();
        {
            let _second = load.wait();
            assert_eq!(load.waiting(), 2);
        }
        drop(first);
        assert_eq!(load.waiting(), 0);
    }
}

//! How fast a replica's graphs are built, and how long it will take.

use std::time::Duration;

use parking_lot::Mutex;

use crate::env::clock::{self, Instant};
use crate::index::Progress;

/// Of the mean rate, the part that a build weighs.
const NEWEST: f64 = 0.3;
/// A build counts by itself from this age on.
const TELLING: Duration = Duration::from_secs(1);

/// Times builds, one after the other.
#[derive(Debug, Default)]
pub struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Vectors per second over the last builds.
    rate: Option<f64>,
    running: Option<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    since: Instant,
    /// What the progress counted when it began.
    from: u64,
}

impl Run {
    /// Vectors so far, and how many per second.
    fn so_far(self, done: u64, now: Instant) -> (u64, f64) {
        let done = done.saturating_sub(self.from);
        (done, done as f64 / now.duration_since(self.since).as_secs_f64().max(1e-6))
    }
}

/// A build that is timed until it is dropped.
#[derive(Debug)]
pub struct Timed<'a> {
    pace: &'a Pace,
    progress: &'a Progress,
}

impl Pace {
    /// A build begins that counts with `progress`.
    pub fn begin<'a>(&'a self, progress: &'a Progress) -> Timed<'a> {
        self.state.lock().running = Some(Run { since: clock::now(), from: progress.done() });
        Timed { pace: self, progress }
    }

    /// Vectors per second, and for how long there is work with `waiting` vectors; `done` is what the progress counted. What is not
    /// known before the first build is `None`; without work it takes no time.
    pub fn figures(&self, waiting: u64, done: u64, now: Instant) -> (Option<f64>, Option<Duration>) {
        let State { rate, running } = *self.state.lock();
        let (built, at_present) = running.map_or((0, 0.0), |run| run.so_far(done, now));
        let is_telling = running.is_some_and(|run| now.duration_since(run.since) >= TELLING);
        let rate = if is_telling && built > 0 { Some(at_present) } else { rate };
        // What is built is not there yet before it is written: a little is left to the end.
        let left = waiting.saturating_sub(built).max(1);
        let eta = match rate {
            _ if waiting == 0 => Some(Duration::ZERO),
            Some(rate) => Duration::try_from_secs_f64(left as f64 / rate.max(1e-3)).ok(),
            None => None,
        };
        (rate, eta)
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.state.lock();
        let Some(run) = state.running.take() else { return };
        let (built, rate) = run.so_far(self.progress.done(), clock::now());
        if built > 0 {
            state.rate = Some(state.rate.map_or(rate, |mean| mean + NEWEST * (rate - mean)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_built() {
        let pace = Pace::default();
        let start = clock::now();
        assert_eq!(pace.figures(0, 0, start), (None, Some(Duration::ZERO)));
        assert_eq!(pace.figures(500, 0, start), (None, None), "nothing was ever built");
        pace.state.lock().running = Some(Run { since: start, from: 100 });
        let (rate, eta) = pace.figures(5_000, 1_100, start + Duration::from_secs(2));
        assert_eq!((rate, eta), (Some(500.0), Some(Duration::from_secs(8))));
        let early = pace.figures(5_000, 110, start + Duration::from_millis(20));
        assert_eq!(early, (None, None), "too short to tell");
        pace.state.lock().running = None;
        pace.state.lock().rate = Some(100.0);
        assert_eq!(pace.figures(250, 0, start).1, Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn a_build_that_ends_is_remembered() {
        let (pace, progress) = (Pace::default(), Progress::new());
        drop(pace.begin(&progress));
        assert_eq!(pace.figures(1, 0, clock::now()), (None, None), "it built nothing");
        let timed = pace.begin(&progress);
        progress.count(10);
        drop(timed);
        let (rate, eta) = pace.figures(1, progress.done(), clock::now());
        assert!(rate.unwrap() > 0.0 && eta.unwrap() < Duration::from_secs(1_000));
    }
}

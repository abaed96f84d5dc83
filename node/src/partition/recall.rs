//! What share of the nearest records searches find, watched on live ones.
//!
//! Now and then the answer of one search is compared with that of a scan of the very view that it searched. That is done behind the
//! caller's back and at low priority: one at a time on a node, and not at all while another one is under way. What is kept is a
//! mean over the last searches compared, whatever their limits were.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::env::clock::{self, Instant};
use crate::query::Answer;

/// Of the mean, the part that the newest search weighs.
const NEWEST: f64 = 0.1;

/// How often searches are compared, and who may.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// How often one search of a replica is compared. Zero: never.
    pub every: Duration,
    permits: Arc<Semaphore>,
}

impl Sampling {
    /// One at a time.
    pub fn new(every: Duration) -> Sampling {
        Sampling { every, permits: Arc::new(Semaphore::new(1)) }
    }
}

/// What is known of one replica's searches.
#[derive(Debug)]
pub struct Recall {
    sampling: Sampling,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    mean: Option<f64>,
    samples: u64,
}

/// A search that is to be compared.
#[derive(Debug)]
pub(super) struct Sample {
    recall: Weak<Recall>,
    _permit: OwnedSemaphorePermit,
}

impl Recall {
    pub(super) fn new(sampling: Sampling) -> Arc<Recall> {
        Arc::new(Recall { sampling, state: Mutex::default() })
    }

    /// The mean, once there is one, and how many searches were compared.
    pub fn figures(&self) -> (Option<f64>, u64) {
        let state = self.state.lock();
        (state.mean, state.samples)
    }

    /// Whether this search is to be compared.
    pub(super) fn sample(self: &Arc<Recall>) -> Option<Sample> {
        let every = self.sampling.every;
        let mut state = self.state.lock();
        if every.is_zero() || state.last.is_some_and(|last| last.elapsed() < every) {
            return None;
        }
        let permit = self.sampling.permits.clone().try_acquire_owned().ok()?;
        state.last = Some(clock::now());
        Some(Sample { recall: Arc::downgrade(self), _permit: permit })
    }

    fn note(&self, share: f64) {
        let mut state = self.state.lock();
        state.samples += 1;
        state.mean = Some(state.mean.map_or(share, |mean| mean + NEWEST * (share - mean)));
    }
}

impl Sample {
    /// Whether nobody waits for it any more.
    pub(super) fn is_idle(&self) -> bool {
        self.recall.strong_count() == 0
    }

    /// Compares. Records as near as the furthest of the exact answer are as good as it.
    pub(super) fn compare(&self, answer: &Answer, exact: &Answer) {
        let Some(furthest) = exact.hits.last() else { return };
        let is_right = |distance: f32| distance <= furthest.distance || distance.is_nan();
        let right = answer.hits.iter().filter(|hit| is_right(hit.distance)).count();
        if let Some(recall) = self.recall.upgrade() {
            recall.note((right as f64 / exact.hits.len() as f64).min(1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Key;

    use super::*;
    use crate::query::PartialHit;

    fn answer(distances: &[f32]) -> Answer {
        let hit = |(key, distance): (u64, &f32)| PartialHit {
            key: Key::Number(key),
            distance: *distance,
            version: 1,
        };
        Answer { hits: (0..).zip(distances).map(hit).collect(), ..Answer::default() }
    }

    #[test]
    fn one_search_at_a_time_and_not_too_often() {
        let recall = Recall::new(Sampling::new(Duration::from_secs(3_600)));
        let sample = recall.sample().unwrap();
        assert!(recall.sample().is_none());
        sample.compare(&answer(&[1.0, 2.0, 9.0]), &answer(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(recall.figures(), (Some(0.5), 1));
        sample.compare(&answer(&[4.0; 4]), &answer(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(recall.figures(), (Some(0.55), 2), "ties count, the newest a tenth");
        sample.compare(&answer(&[]), &answer(&[]));
        assert_eq!(recall.figures().1, 2);
        drop(sample);
        assert!(recall.sample().is_none(), "it was just done");

        let shared = Sampling::new(Duration::from_nanos(1));
        let [one, other] = [Recall::new(shared.clone()), Recall::new(shared)];
        let busy = one.sample().unwrap();
        assert!(other.sample().is_none() && !busy.is_idle());
        drop(one);
        assert!(busy.is_idle());
        drop(busy);
        assert!(other.sample().is_some());
        assert!(Recall::new(Sampling::new(Duration::ZERO)).sample().is_none());
    }
}

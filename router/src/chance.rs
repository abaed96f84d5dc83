//! Chance: the jitter of pauses, the spread of reads over replicas, and the identities of writes. One generator per router, so
//! that a router with a given seed does the same again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The step of the generator: SplitMix64's odd constant.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator of numbers. Many may ask at once.
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    /// The generator of `seed`; without one, of a seed that the operating system gives.
    pub(crate) fn new(seed: Option<u64>) -> Chance {
        Chance(AtomicU64::new(seed.unwrap_or_else(|| RandomState::new().build_hasher().finish())))
    }

    /// A number over the whole range.
    pub(crate) fn number(&self) -> u64 {
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.number() % (end.max(1) as u64)) as usize
    }

    /// A time from half of `whole` to `whole`, so that those who wait for one thing do not all come back at once.
    pub(crate) fn jitter(&self, whole: Duration) -> Duration {
        let part = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        whole.mul_f64(0.5 + part / 2.0)
    }

    /// Puts `items` into any order.
    pub(crate) fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_the_systems_seeds_differ() {
        let row = |chance: Chance| (0..4).map(|_| chance.number()).collect::<Vec<u64>>();
        assert_eq!(row(Chance::new(Some(7))), row(Chance::new(Some(7))));
        assert_ne!(row(Chance::new(Some(7))), row(Chance::new(Some(8))));
        assert_ne!(row(Chance::new(None)), row(Chance::new(None)));
    }

    #[test]
    fn jitter_stays_between_half_and_whole_and_a_shuffle_loses_nothing() {
        let chance = Chance::new(Some(1));
        let whole = Duration::from_millis(100);
        let times: Vec<Duration> = (0..100).map(|_| chance.jitter(whole)).collect();
        assert!(times.iter().all(|time| (whole / 2..=whole).contains(time)));
        assert!(times.windows(2).any(|pair| pair[0] != pair[1]));
        let mut items: Vec<u32> = (0..20).collect();
        chance.shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<u32>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<u32>>());
    }
}

//! How long to wait before the next try: twice as long each time, up to a bound, and never quite the same for two who wait
//! for one thing.

use std::time::Duration;

use crate::chance::Chance;

/// A growing pause.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`, jittered down to half of that.
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, next: first, max }
    }

    /// The pause before the next try.
    pub(crate) fn pause(&mut self, chance: &Chance) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        chance.jitter(pause)
    }

    /// Starts over, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_are_jittered_by_the_generator_given() {
        let pauses = |seed| {
            let chance = Chance::new(Some(seed));
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
            let mut pauses: Vec<Duration> = (0..4).map(|_| backoff.pause(&chance)).collect();
            backoff.reset();
            pauses.push(backoff.pause(&chance));
            pauses
        };
        let whole = [10, 20, 35, 35, 10].map(Duration::from_millis);
        assert!(pauses(3).iter().zip(whole).all(|(pause, whole)| (whole / 2..=whole).contains(pause)));
        assert_eq!(pauses(3), pauses(3));
        assert_ne!(pauses(3), pauses(4));
    }
}

//! Time: a monotonic clock to measure with, and the wall clock to stamp with.
//!
//! Leases, timeouts and latencies use [`now`]. [`unix_millis`] serves only what a user can see (creation times,
//! record expiry): it may jump in both directions and nothing may depend on its order.

use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(std::time::Instant);

impl Instant {
    /// Time since this point; zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        now() - self
    }

    /// Time from `earlier` to this point; zero if `earlier` is the later one.
    pub fn duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// The point so long before this one; where the clock does not reach back so far, its first point that does.
    pub fn before(self, span: Duration) -> Instant {
        let mut span = span;
        loop {
            if let Some(earlier) = self.0.checked_sub(span) {
                return Instant(earlier);
            }
            span /= 2;
        }
    }

    /// This point as the runtime's timers want it (`tokio::time::sleep_until`, `timeout_at`).
    pub fn to_tokio(self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// A later point; a sum beyond the clock's range stays a century away rather than failing.
    fn add(self, span: Duration) -> Instant {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        Instant(self.0.checked_add(span).or_else(|| self.0.checked_add(CENTURY)).unwrap_or(self.0))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    #[cfg(any(test, feature = "sim"))]
    if super::sim::world().is_some() {
        return Instant(tokio::time::Instant::now().into_std());
    }
    Instant(std::time::Instant::now())
}

/// Milliseconds of the wall clock since 1970; 0 for a clock set before it.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = super::sim::world() {
        return millis.saturating_add_signed((world.skew)());
    }
    millis
}

/// Sleeps on the runtime's timer.
pub async fn sleep(span: Duration) {
    tokio::time::sleep(span).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_never_go_below_zero() {
        let start = now();
        let later = start + Duration::from_millis(5);
        assert_eq!(start - later, Duration::ZERO);
        assert_eq!(later - start, Duration::from_millis(5));
        assert!(start + Duration::MAX > later);
        assert_eq!(later.before(Duration::from_millis(5)), start);
        assert!(start.before(Duration::MAX) <= start);
        assert!(unix_millis() > 1_600_000_000_000);
    }
}

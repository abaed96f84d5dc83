//! How many requests run at once, and until when each may.
//!
//! A request waits for a permit in a bounded queue; beyond the queue it is refused with `RESOURCE_EXHAUSTED` and the time
//! after which to try again. Its deadline is the caller's (`grpc-timeout`), less a margin in which the answer
//! travels back; without one, the default.

use std::time::Duration;

use flotilla_proto::refusal::Refusal;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::metrics::Metrics;

const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Of the time left, the part kept back at each hop, within bounds.
const MARGIN_PART: u32 = 20;
const MARGIN_MAX: Duration = Duration::from_millis(50);

/// The point in time at which the caller stops waiting for us.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// When it is.
    pub fn at(self) -> Instant {
        self.0
    }

    /// The time left; zero when it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The time that the next hop gets: what is left, less the margin.
    pub fn for_next_hop(self) -> Duration {
        less_margin(self.left())
    }

    /// The earlier of this one and `time` from now.
    pub fn at_most(self, time: Duration) -> Deadline {
        Deadline(self.0.min(Instant::now() + time))
    }

    /// `work`, or `DEADLINE_EXCEEDED`.
    pub async fn bound<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::time::timeout_at(self.0, work).await.unwrap_or_else(|_| Err(exceeded("the time was up")))
    }
}

/// The status of a deadline that has passed.
pub fn exceeded(why: &str) -> Status {
    Refusal::DeadlineExceeded(format!("{why}; a write under way may still be applied")).into()
}

fn less_margin(time: Duration) -> Duration {
    time - (time / MARGIN_PART).min(MARGIN_MAX)
}

/// The gate.
#[derive(Debug)]
pub struct Admission {
    permits: Semaphore,
    queue_max: i64,
    deadline_default: Duration,
    deadline_max: Duration,
}

impl Admission {
    /// A gate for `requests_max` requests at once and `queue_max` that wait.
    pub fn new(
        requests_max: usize,
        queue_max: usize,
        deadline_default: Duration,
        deadline_max: Duration,
    ) -> Admission {
        let permits = Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS));
        let queue_max = i64::try_from(queue_max).unwrap_or(i64::MAX);
        Admission { permits, queue_max, deadline_default, deadline_max }
    }

    /// The deadline that the caller asked for, within ours.
    pub fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        let asked = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        let time = asked.unwrap_or(self.deadline_default).min(self.deadline_max);
        Deadline::after(less_margin(time))
    }

    /// Waits for a permit until the deadline.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the queue is full, `DEADLINE_EXCEEDED` if no permit came in time.
    pub async fn enter(&self, deadline: Deadline, metrics: &Metrics) -> Result<SemaphorePermit<'_>, Status> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        if metrics.queue_depth.get() >= self.queue_max {
            let what = format!("{} requests wait already", self.queue_max);
            return Err(Refusal::Exhausted { what, retry_after: RETRY_AFTER }.into());
        }
        metrics.queue_depth.inc();
        let _leave = Leave(metrics);
        match tokio::time::timeout_at(deadline.at(), self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Refusal::Unavailable("the router is going down".into()).into()),
            Err(_) => Err(exceeded("the time was up in the queue")),
        }
    }
}

/// Takes a request out of the queue's count, also when its caller goes while it waits.
struct Leave<'a>(&'a Metrics);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.queue_depth.dec();
    }
}

/// The time of a `grpc-timeout` header: up to 8 digits and a unit.
fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(timeout("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in ["", "5", "S", "123456789S", "-1S", "1X", "é"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn beyond_the_queue_a_request_is_told_to_wait() {
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let gate = Admission::new(1, 0, Duration::from_secs(1), Duration::from_secs(1));
        let deadline = Deadline::after(Duration::from_secs(1));
        let first = gate.enter(deadline, &metrics).await.unwrap();
        let refused = gate.enter(deadline, &metrics).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(first);
        assert!(gate.enter(deadline, &metrics).await.is_ok());
        assert_eq!(metrics.queue_depth.get(), 0);
    }

    #[tokio::test]
    async fn a_request_in_the_queue_waits_no_longer_than_its_deadline() {
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let gate = Admission::new(1, 8, Duration::from_secs(1), Duration::from_secs(1));
        let _first = gate.enter(Deadline::after(Duration::from_secs(1)), &metrics).await.unwrap();
        let late = gate.enter(Deadline::after(Duration::from_millis(5)), &metrics).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(metrics.queue_depth.get(), 0);
    }
}

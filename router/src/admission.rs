//! How many requests run at once, which goes first, and until when each may.
//!
//! Every request is of a [`Class`]. It runs if there is a permit, else it waits in its class's bounded queue; beyond the queue
//! it is refused with `RESOURCE_EXHAUSTED` and the time after which to try again. A permit that comes back goes to the
//! highest class that waits and has less than its core of permits, and if there is none, to the highest that waits:
//! so a class that is flooded cannot keep the others from running a few, and none starves. Within a class, who came first
//! goes first.
//!
//! A deadline is the caller's (`grpc-timeout`), less a margin in which the answer travels back; without one, the default. It
//! is looked at before work begins: whose time was up in the queue costs no work.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;
use prometheus::{IntGauge, IntGaugeVec};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::metrics::Queues;

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

/// What a request is for; the first goes before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The cluster and its collections.
    System,
    /// One question.
    Read,
    /// One write.
    Write,
    /// A piece of an import, of an export or of a comparison of replicas.
    Background,
}

impl Class {
    /// All of them, the first first.
    pub const ALL: [Class; 4] = [Class::System, Class::Read, Class::Write, Class::Background];

    /// Its name in metrics and refusals.
    pub fn name(self) -> &'static str {
        match self {
            Class::System => "system",
            Class::Read => "read",
            Class::Write => "write",
            Class::Background => "background",
        }
    }
}

/// How many requests there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one class that others do not keep from running, as soon as a permit comes back. Default 128, at least 1.
    pub core: usize,
    /// Requests that run at once. Default 512, at least 1.
    pub running_max: usize,
    /// Requests of one class that wait. Default 1,000.
    pub waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { core: 128, running_max: 512, waiting_max: 1_000 }
    }
}

/// The gate.
#[derive(Debug)]
pub struct Admission {
    turns: Mutex<Turns>,
    deadline_default: Duration,
    deadline_max: Duration,
}

impl Admission {
    /// A gate with these limits, which tells its queues to the gauges.
    pub fn new(
        limits: Limits,
        deadline_default: Duration,
        deadline_max: Duration,
        told: Queues,
    ) -> Admission {
        let gauges = |all: &IntGaugeVec| Class::ALL.map(|class| all.with_label_values(&[class.name()]));
        let turns = Turns {
            limits,
            running: [0; 4],
            waiting: Default::default(),
            came: 0,
            told: (gauges(&told.waiting), gauges(&told.running)),
        };
        Admission { turns: Mutex::new(turns), deadline_default, deadline_max }
    }

    /// The limits from now on. What runs and waits already goes on.
    pub fn limit(&self, limits: Limits) {
        let mut turns = self.turns.lock();
        turns.limits = limits;
        turns.hand_out();
    }

    /// The deadline that the caller asked for, within ours; ours if it asked for none.
    pub fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        self.asked(metadata).unwrap_or_else(|| Deadline::after(less_margin(self.deadline_default)))
    }

    /// The deadline that the caller asked for, within ours.
    pub fn asked(&self, metadata: &MetadataMap) -> Option<Deadline> {
        let asked = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?))?;
        Some(Deadline::after(less_margin(asked.min(self.deadline_max))))
    }

    /// Waits for a permit until the deadline.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the queue is full, `DEADLINE_EXCEEDED` if no permit came in time.
    pub async fn enter(&self, class: Class, deadline: Deadline) -> Result<Permit<'_>, Status> {
        if deadline.left().is_zero() {
            return Err(exceeded("the time was up before the work began"));
        }
        let (place, turn) = {
            let mut turns = self.turns.lock();
            if turns.start(class) {
                return Ok(Permit { gate: self, class });
            }
            let waiting_max = turns.limits.waiting_max;
            if turns.waiting[class as usize].len() >= waiting_max {
                let what = format!(
                    "server.thread_pool.queue_size: {waiting_max} requests of class {} wait already",
                    class.name()
                );
                return Err(Refusal::Exhausted { what, retry_after: RETRY_AFTER }.into());
            }
            turns.queue(class)
        };
        let waiting = Waiting { gate: self, class, place };
        let is_late = tokio::time::timeout_at(deadline.at(), turn).await.is_err();
        // Its turn may have come in the very moment in which the time was up: then `waiting` gives it back.
        if is_late || deadline.left().is_zero() {
            return Err(exceeded("the time was up in the queue"));
        }
        std::mem::forget(waiting);
        Ok(Permit { gate: self, class })
    }
}

/// Leave to run one request; given back when it is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    gate: &'a Admission,
    class: Class,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.gate.turns.lock().end(self.class);
    }
}

/// A place in a queue. Dropped, it leaves the queue, or gives back the permit that it was handed.
struct Waiting<'a> {
    gate: &'a Admission,
    class: Class,
    place: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut turns = self.gate.turns.lock();
        if turns.waiting[self.class as usize].remove(&self.place).is_none() {
            turns.end(self.class);
        }
        turns.tell(self.class);
    }
}

/// Who runs and who waits. Whenever fewer run than may, nobody waits.
#[derive(Debug)]
struct Turns {
    limits: Limits,
    running: [usize; 4],
    waiting: [BTreeMap<u64, oneshot::Sender<()>>; 4],
    /// How many have waited.
    came: u64,
    told: ([IntGauge; 4], [IntGauge; 4]),
}

impl Turns {
    fn is_full(&self) -> bool {
        self.running.iter().sum::<usize>() >= self.limits.running_max.max(1)
    }

    /// Takes a permit, if there is one.
    fn start(&mut self, class: Class) -> bool {
        let may = !self.is_full();
        self.running[class as usize] += usize::from(may);
        self.tell(class);
        may
    }

    fn queue(&mut self, class: Class) -> (u64, oneshot::Receiver<()>) {
        let (turn, comes) = oneshot::channel();
        self.came += 1;
        self.waiting[class as usize].insert(self.came, turn);
        self.tell(class);
        (self.came, comes)
    }

    fn end(&mut self, class: Class) {
        self.running[class as usize] -= 1;
        self.hand_out();
        self.tell(class);
    }

    /// Gives the permits there are to those who wait.
    fn hand_out(&mut self) {
        while !self.is_full() {
            let waits = |class: &Class| !self.waiting[*class as usize].is_empty();
            let lacks =
                |class: &Class| waits(class) && self.running[*class as usize] < self.limits.core.max(1);
            let next = Class::ALL.into_iter().find(lacks).or_else(|| Class::ALL.into_iter().find(waits));
            let Some(class) = next else { return };
            if let Some((_, turn)) = self.waiting[class as usize].pop_first() {
                self.running[class as usize] += 1;
                // One that has just gone gives it back by itself.
                let _ = turn.send(());
            }
            self.tell(class);
        }
    }

    fn tell(&self, class: Class) {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.told.0[class as usize].set(signed(self.waiting[class as usize].len()));
        self.told.1[class as usize].set(signed(self.running[class as usize]));
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
mod tests;

//! Whether the node has room for more: memory and disk, looked at some times a second, and what follows for the others.
//!
//! One task ([`Relief`](crate::server)) takes samples; everybody else asks. Memory pressure is what the process uses of what it may
//! ([`memory`]), from 0 to 1; the [`ladder`] says how far to retreat from it. Space on the disk is refused to writes below a
//! **reserve**, so that what frees space, seals and merges and deletions, still finds some.
//!
//! Where nothing is known of the machine there is room.

pub mod ladder;
pub mod load;
pub mod usage;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::ladder::STEPS;
pub use self::ladder::Step;
use self::load::Load;
pub use self::usage::{Purpose, Usage};
use crate::env::{clock, memory};

/// When to try again what was refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of a disk, the part that the reserve takes at most.
const RESERVE_PART: u64 = 20;
/// Of the reserve, the part that must be free above it until writes are taken again.
const RESERVE_BACK: u64 = 4;

/// How much there is to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of memory that the process may use. Zero: what the system allows (default).
    pub memory_bytes: u64,
    /// Free bytes of the disk below which writes are refused, but at most a twentieth of it (default 1 GiB).
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { memory_bytes: 0, reserve_bytes: 1 << 30 }
    }
}

/// What the disk has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Free bytes.
    pub free: u64,
    /// Bytes that are kept for what frees space.
    pub reserve: u64,
    /// Whether writes are refused.
    pub is_low: bool,
}

/// Processor time as of the last look.
#[derive(Debug)]
struct Cpu {
    seconds: f64,
    at: clock::Instant,
    usage: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Room {
    options: Options,
    used: AtomicU64,
    limit: AtomicU64,
    step: AtomicU8,
    disk: Mutex<Disk>,
    builds: watch::Sender<bool>,
    cpu: Mutex<Cpu>,
    load: Load,
}

impl Default for Room {
    fn default() -> Room {
        Room::new(Options::default())
    }
}

impl Room {
    /// Room as long as nothing else was sampled.
    pub fn new(options: Options) -> Room {
        Room {
            options,
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            step: AtomicU8::new(0),
            disk: Mutex::default(),
            builds: watch::Sender::new(true),
            cpu: Mutex::new(Cpu { seconds: memory::cpu_seconds(), at: clock::now(), usage: 0.0 }),
            load: Load::default(),
        }
    }

    /// Looks at the memory. Returns where the node stood, and where it stands now.
    pub fn sample_memory(&self) -> (Step, Step) {
        let limit = match self.options.memory_bytes {
            0 => memory::limit().unwrap_or(0),
            limit => limit,
        };
        self.take_memory(memory::used().unwrap_or(0), limit)
    }

    /// Takes a sample; a limit of 0 is none.
    pub(crate) fn take_memory(&self, used: u64, limit: u64) -> (Step, Step) {
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        let before = self.step();
        let now = before.next(self.pressure());
        self.step.store(now as u8, Ordering::Relaxed);
        self.builds.send_if_modified(|may| std::mem::replace(may, now < Step::StopBuilds) != *may);
        (before, now)
    }

    /// Takes a sample of the disk: free bytes of so many. True if writes are refused from now on, or taken again.
    pub fn take_disk(&self, free: u64, whole: u64) -> bool {
        let reserve = self.options.reserve_bytes.min(whole / RESERVE_PART);
        let mut disk = self.disk.lock();
        let enough = if disk.is_low { reserve.saturating_add(reserve / RESERVE_BACK) } else { reserve };
        let is_low = free < enough;
        let has_changed = disk.is_low != is_low;
        *disk = Disk { free, reserve, is_low };
        has_changed
    }

    /// What the process uses of what it may: 0 to 1.
    pub fn pressure(&self) -> f64 {
        match self.memory() {
            (_, 0) => 0.0,
            (used, limit) => (used as f64 / limit as f64).min(1.0),
        }
    }

    /// Bytes of memory used, and the limit; 0 where that is not known.
    pub fn memory(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed))
    }

    /// One of so many parts of the memory that the process may use; everything, if it is not known how much that is.
    pub fn part(&self, parts: u64) -> u64 {
        match self.memory() {
            (_, 0) => u64::MAX,
            (_, limit) => limit / parts.max(1),
        }
    }

    /// How far the node has retreated.
    pub fn step(&self) -> Step {
        STEPS.get(usize::from(self.step.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// What the disk has.
    pub fn disk(&self) -> Disk {
        *self.disk.lock()
    }

    /// Looks at the processor time.
    pub fn sample_cpu(&self) {
        let (seconds, at) = (memory::cpu_seconds(), clock::now());
        let mut cpu = self.cpu.lock();
        let span = at.duration_since(cpu.at).as_secs_f64();
        if span > 0.0 {
            *cpu = Cpu { seconds, at, usage: (seconds - cpu.seconds).max(0.0) / span };
        }
    }

    /// Processors that the process kept busy between the last two looks.
    pub fn cpu_usage(&self) -> f64 {
        self.cpu.lock().usage
    }

    /// What is asked of the node.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Refuses a write that would take memory or space for good.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`]: nothing was written, and deletions are taken all the same.
    pub fn admits(&self) -> Result<(), Refusal> {
        if self.step() >= Step::RefuseWrites {
            let (used, limit) = self.memory();
            let what = format!(
                "the node is short of memory: {} of {} MiB are in use, writes are refused from {:.0} % on; delete records, or give \
                 it more",
                used >> 20,
                limit >> 20,
                Step::RefuseWrites.from() * 100.0
            );
            return Err(Refusal::Exhausted { what, retry_after: RETRY_AFTER });
        }
        self.has_disk()
    }

    /// Refuses a write that the disk has no room for beyond its reserve.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`]; see [`Room::admits`].
    pub fn has_disk(&self) -> Result<(), Refusal> {
        let Disk { free, reserve, is_low } = self.disk();
        if !is_low {
            return Ok(());
        }
        let what = format!(
            "the node is short of disk: {} MiB are free, {} MiB are kept for seals and merges (storage.reserve_bytes); delete \
             records, or give it more",
            free >> 20,
            reserve >> 20
        );
        Err(Refusal::Exhausted { what, retry_after: RETRY_AFTER })
    }

    /// Waits until graphs may be built and segments merged.
    pub async fn may_build(&self) {
        // The sender is this struct's own: it is not gone while somebody waits here.
        let _ = self.builds.subscribe().wait_for(|may| *may).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn writes_are_refused_under_pressure_and_taken_again_below_it() {
        let room = Room::default();
        assert!(room.admits().is_ok(), "nothing is known");
        room.take_memory(79 * MIB, 100 * MIB);
        assert!(room.admits().is_ok());
        assert_eq!(room.take_memory(81 * MIB, 100 * MIB), (Step::SealEarly, Step::RefuseWrites));
        let Err(Refusal::Exhausted { what, retry_after }) = room.admits() else { panic!("it is taken") };
        assert!(what.contains("81 of 100 MiB") && what.contains("80 %"), "{what}");
        assert_eq!(retry_after, RETRY_AFTER);
        room.take_memory(75 * MIB, 100 * MIB);
        assert!(room.admits().is_err(), "too early");
        room.take_memory(69 * MIB, 100 * MIB);
        assert!(room.admits().is_ok());
        room.take_memory(u64::MAX, 0);
        assert_eq!((room.pressure(), room.step()), (0.0, Step::Normal), "no limit is known");
    }

    #[test]
    fn the_reserve_is_kept_and_at_most_a_part_of_the_disk() {
        let room = Room::new(Options { reserve_bytes: 10 * MIB, ..Options::default() });
        assert!(!room.take_disk(10 * MIB, 1_000 * MIB));
        assert!(room.admits().is_ok());
        assert!(room.take_disk(10 * MIB - 1, 1_000 * MIB));
        let Err(Refusal::Exhausted { what, .. }) = room.admits() else { panic!("it is taken") };
        assert!(what.contains("9 MiB are free") && what.contains("10 MiB are kept"), "{what}");
        assert!(!room.take_disk(12 * MIB, 1_000 * MIB), "too early");
        assert!(room.take_disk(13 * MIB, 1_000 * MIB));
        assert!(room.admits().is_ok());
        room.take_disk(6 * MIB, 100 * MIB);
        assert_eq!(room.disk(), Disk { free: 6 * MIB, reserve: 5 * MIB, is_low: false });
        let none = Room::new(Options { reserve_bytes: 0, ..Options::default() });
        none.take_disk(0, 100 * MIB);
        assert!(none.admits().is_ok());
    }

    #[tokio::test]
    async fn builds_wait_until_the_pressure_is_gone() {
        let room = Room::default();
        room.may_build().await;
        room.take_memory(90, 100);
        assert_eq!(futures::poll!(std::pin::pin!(room.may_build())), std::task::Poll::Pending);
        room.take_memory(10, 100);
        room.may_build().await;
    }
}

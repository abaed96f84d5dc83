//! The background work of one replica: seal, build graphs, compact, let the log be purged.
//!
//! One task per replica, woken when rows are frozen; it works until nothing is left to do. Each job takes one of the
//! node's work permits and runs beside the request loop, so that all replicas together never use more than the node's
//! share of cores. Jobs are interrupted at shutdown; what they had not committed is done again after the next boot.
//!
//! When no write came for [`IDLE`], rows that are still growing are frozen too, if they are enough for a graph: a
//! collection at rest is indexed whole.
//!
//! At a low rate, what is at rest is checked too: one sealed segment at a time is read whole.
//!
//! A job that fails for want of space is tried again after a pause; one that fails otherwise stops this worker and takes the
//! replica into quarantine: what a sync or a read could not do is not to be trusted, and another replica has it whole.

pub mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::env::{clock, task};
use crate::index::Progress;
use crate::machine::{PartitionMachine, Signals};
use crate::raft::Group;
use crate::storage::store::Store;
use crate::storage::{Fault, Quarantine};

/// How long without a write until growing rows are frozen.
const IDLE: Duration = Duration::from_secs(1);

/// How the background works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often one sealed segment of a replica is read whole and checked, one after the other (default 300 s). Zero: never.
    pub verify_every: Duration,
    /// How long to wait before trying again what failed for want of space (default 5 s).
    pub space_pause: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { verify_every: Duration::from_secs(300), space_pause: Duration::from_secs(5) }
    }
}

/// The worker of one replica.
pub struct Worker {
    job: Arc<Job>,
    sealed: watch::Receiver<u64>,
    task: Mutex<Option<task::JoinHandle<()>>>,
}

struct Job {
    store: Arc<Store>,
    group: Arc<Group<PartitionMachine>>,
    wake: Arc<Notify>,
    permits: Arc<Semaphore>,
    progress: Arc<Progress>,
    sealed: watch::Sender<u64>,
    freeze_wanted: Arc<AtomicBool>,
    quarantine: Arc<Quarantine>,
    options: Options,
    verified: Mutex<Verified>,
    is_stopping: AtomicBool,
}

/// How far the check of what is at rest has come.
struct Verified {
    /// The segment that was checked last.
    segment: u64,
    at: clock::Instant,
}

impl Worker {
    /// Starts the worker; it looks for work at once.
    pub fn start(
        store: Arc<Store>,
        group: Arc<Group<PartitionMachine>>,
        signals: Signals,
        permits: Arc<Semaphore>,
        options: Options,
    ) -> Worker {
        let Signals { frozen: wake, freeze_wanted, quarantine, .. } = signals;
        let progress = Arc::new(Progress::default());
        let is_stopping = AtomicBool::new(false);
        let (sealed, sealings) = watch::channel(0);
        let job = Arc::new(Job {
            store,
            group,
            wake,
            permits,
            progress,
            sealed,
            freeze_wanted,
            quarantine,
            options,
            verified: Mutex::new(Verified { segment: 0, at: clock::now() }),
            is_stopping,
        });
        let task = task::spawn(job.clone().run());
        Worker { job, sealed: sealings, task: Mutex::new(Some(task)) }
    }

    /// Waits while the store says that its background is behind, so that memory stays bounded under a flood of writes.
    pub async fn wait_while_behind(&self) {
        let mut sealed = self.sealed.clone();
        loop {
            sealed.borrow_and_update();
            if !self.job.store.is_behind() || sealed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Interrupts the work and waits for it to end. Idempotent.
    pub async fn stop(&self) {
        self.job.is_stopping.store(true, Ordering::SeqCst);
        self.job.progress.cancel();
        self.job.wake.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(why) = task.await
        {
            tracing::warn!(%why, "a worker did not end cleanly");
        }
    }
}

impl Job {
    async fn run(self: Arc<Job>) {
        loop {
            let worked = async {
                self.work().await?;
                self.maybe_verify().await
            };
            match worked.await {
                Ok(()) => self.rest().await,
                Err(Fault::Cancelled) => {}
                Err(fault @ Fault::Io { is_full: true, .. }) => {
                    tracing::warn!(%fault, "background work waits for space");
                    self.pause().await;
                }
                Err(fault) => {
                    tracing::error!(%fault, "background work stops");
                    return self.quarantine.note(&fault);
                }
            }
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Waits for work. Whenever nothing was written for a while, asks the machine to freeze what grows.
    async fn rest(&self) {
        let mut written = self.group.applied();
        while tokio::time::timeout(IDLE, self.wake.notified()).await.is_err() {
            let now = self.group.applied();
            if now == written && self.store.is_worth_sealing() {
                self.freeze_wanted.store(true, Ordering::SeqCst);
                if let Err(why) = self.group.purge_behind_durable().await {
                    tracing::warn!(%why, "the growing rows are not frozen");
                    return self.wake.notified().await;
                }
            }
            if self.verify_is_due() {
                return;
            }
            written = now;
        }
    }

    fn verify_is_due(&self) -> bool {
        let every = self.options.verify_every;
        !every.is_zero() && self.verified.lock().at.elapsed() >= every
    }

    /// Checks the next sealed segment, if it is time.
    async fn maybe_verify(self: &Arc<Job>) -> Result<(), Fault> {
        if !self.verify_is_due() {
            return Ok(());
        }
        let checked = self.step(|job| {
            let last = job.verified.lock().segment;
            let next = job.store.verify_next(last)?;
            *job.verified.lock() = Verified { segment: next.unwrap_or(0), at: clock::now() };
            Ok(next.is_some())
        });
        checked.await?;
        // What was found may be work.
        self.wake.notify_one();
        Ok(())
    }

    async fn pause(&self) {
        let _ = tokio::time::timeout(self.options.space_pause, self.wake.notified()).await;
    }

    /// Everything there is to do now, the most urgent first.
    async fn work(self: &Arc<Job>) -> Result<(), Fault> {
        loop {
            if self.is_stopping.load(Ordering::SeqCst) {
                return Err(Fault::Cancelled);
            }
            if self.step(|job| Ok(job.store.seal()?.is_some())).await? {
                self.sealed.send_modify(|count| *count += 1);
                if let Err(why) = self.group.purge_behind_durable().await {
                    tracing::warn!(%why, "the log is not purged");
                }
                continue;
            }
            let merged = self.step(|job| job.store.compact(&job.progress)).await?;
            if !merged && !self.step(|job| job.store.build_graph(&job.progress)).await? {
                return Ok(());
            }
        }
    }

    async fn step(
        self: &Arc<Job>,
        work: impl FnOnce(&Job) -> Result<bool, Fault> + Send + 'static,
    ) -> Result<bool, Fault> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Fault::Cancelled)?;
        let job = self.clone();
        let since = clock::now();
        let done = task::spawn_cpu(move || {
            let _permit = permit;
            work(&job)
        })
        .await;
        tracing::debug!(elapsed = ?since.elapsed(), "background step");
        done.map_err(|_| Fault::Cancelled)?
    }
}

//! The background work of one replica: seal, build graphs, compact, let the log be purged.
//!
//! Three [`Track`]s per replica work beside each other, each until nothing is left for it to do: **sealing**, woken when rows are
//! frozen, so that memory and the log stay short whatever else is under way; **indexing**, so that what searches scan stays
//! short while segments are merged; **merging**, which also checks, at a low rate, what is at rest: one sealed segment at a time
//! is read whole. Each job takes one of the node's [`Permits`] and runs beside the request loop, so that all replicas together
//! never use more than the node's share of cores. Jobs are interrupted at shutdown; what they had not committed is done again
//! after the next boot.
//!
//! When no write came for [`IDLE`], rows that are still growing are frozen too, if they are enough for an index: a
//! collection at rest is indexed whole.
//!
//! Beside them one more task looks for records whose time has come ([`expiry`]).
//!
//! **Writers wait** while sealing or indexing is too far behind ([`Worker::wait_while_behind`]): memory is bounded, and so is what a
//! search has to scan while data pours in.
//!
//! **Short memory** stops what builds and merges, and not what seals: see [`crate::room`].
//!
//! A job that fails for want of space is tried again after a pause; one that fails otherwise stops this worker and takes the
//! replica into quarantine: what a sync or a read could not do is not to be trusted, and another replica has it whole.

pub(crate) mod expiry;
pub mod pace;
pub mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::ids::CollectionId;
use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use self::pace::Pace;
use crate::env::{clock, task};
use crate::index::Progress;
use crate::machine::{PartitionMachine, Signals};
use crate::raft::Group;
use crate::room::Room;
use crate::storage::store::{Behind, Store};
use crate::storage::{Fault, Quarantine};

/// How long without a write until growing rows are frozen.
const IDLE: Duration = Duration::from_secs(1);
/// What a write is told to wait that waited in vain for a background that is behind.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How the background works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often one sealed segment of a replica is read whole and checked, one after the other (default 300 s). Zero: never.
    pub verify_every: Duration,
    /// How long to wait before trying again what failed for want of space (default 5 s).
    pub space_pause: Duration,
    /// How long a write waits for a background that is behind, at most: less than callers wait (default 2 s).
    pub behind_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            verify_every: Duration::from_secs(300),
            space_pause: Duration::from_secs(5),
            behind_max: Duration::from_secs(2),
        }
    }
}

/// Background jobs that may run at one time on a node, over all replicas.
#[derive(Clone, Debug)]
pub struct Permits {
    room: Arc<Room>,
    sealing: Arc<Semaphore>,
    building: Arc<Semaphore>,
    merging: Arc<Semaphore>,
}

impl Permits {
    /// A seal writes one folder and computes little. Of the two that build, at most one merges, so that a graph which is lacking
    /// never waits for a merge. While memory is too short for it, nobody builds or merges.
    pub fn new(room: Arc<Room>) -> Permits {
        let [sealing, building, merging] = [1, 2, 1].map(|count| Arc::new(Semaphore::new(count)));
        Permits { room, sealing, building, merging }
    }
}

#[cfg(test)]
impl Permits {
    /// While these are held, no graph is built and nothing is merged.
    pub(crate) async fn builds(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.building.clone().acquire_many_owned(2).await.unwrap()
    }
}

/// A kind of background work; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Sealing,
    Indexing,
    Merging,
}

/// The worker of one replica.
pub struct Worker {
    job: Arc<Job>,
    done: watch::Receiver<u64>,
    tasks: Mutex<Vec<task::JoinHandle<()>>>,
}

struct Job {
    store: Arc<Store>,
    group: Arc<Group<PartitionMachine>>,
    /// Told of frozen rows.
    wake: Arc<Notify>,
    /// Told of segments that may want a graph.
    index_wake: Notify,
    /// Told of segments that may want to be merged.
    merge_wake: Notify,
    /// Told when the look at what expires is to end.
    expiry_wake: Notify,
    permits: Permits,
    indexing: Progress,
    merging: Progress,
    pace: Pace,
    /// Counts what brings the store closer to its writers.
    done: watch::Sender<u64>,
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
        collection: CollectionId,
        store: Arc<Store>,
        group: Arc<Group<PartitionMachine>>,
        signals: Signals,
        permits: Permits,
        options: Options,
    ) -> Worker {
        let Signals { frozen: wake, freeze_wanted, quarantine, .. } = signals;
        let (done, counted) = watch::channel(0);
        let job = Arc::new(Job {
            store,
            group,
            wake,
            index_wake: Notify::new(),
            merge_wake: Notify::new(),
            expiry_wake: Notify::new(),
            permits,
            indexing: Progress::new(),
            merging: Progress::new(),
            pace: Pace::default(),
            done,
            freeze_wanted,
            quarantine,
            options,
            verified: Mutex::new(Verified { segment: 0, at: clock::now() }),
            is_stopping: AtomicBool::new(false),
        });
        let tracks = [Track::Sealing, Track::Indexing, Track::Merging];
        let mut tasks: Vec<_> = tracks.map(|track| task::spawn(job.clone().follow(track))).into();
        tasks.push(task::spawn(job.clone().expire(collection)));
        let tasks = Mutex::new(tasks);
        Worker { job, done: counted, tasks }
    }

    /// Waits while the store says that its background is behind, so that memory and what is scanned stay bounded under a flood of
    /// writes.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`] if it still is after a while; nothing was written.
    pub async fn wait_while_behind(&self) -> Result<(), Refusal> {
        if self.job.store.behind().is_none() {
            return Ok(());
        }
        let mut done = self.done.clone();
        let caught_up = async {
            loop {
                done.borrow_and_update();
                if self.job.store.behind().is_none() || done.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.job.options.behind_max, caught_up).await.is_ok() {
            return Ok(());
        }
        match self.job.store.behind() {
            None => Ok(()),
            Some(behind) => Err(Refusal::Exhausted {
                what: match behind {
                    Behind::Sealing => "rows wait to be written to disk".to_owned(),
                    Behind::Indexing(waiting) => {
                        format!("{waiting} vectors of the partition wait for their index")
                    }
                },
                retry_after: RETRY_AFTER,
            }),
        }
    }

    /// How fast graphs are built here, and for how long there is work of that kind with `waiting` vectors; see [`Pace`].
    pub fn pace(&self, waiting: u64) -> (Option<f64>, Option<Duration>) {
        self.job.pace.figures(waiting, self.job.indexing.done(), clock::now())
    }

    /// Has the growing rows frozen and sealed, few as they may be.
    pub async fn seal_early(&self) -> Result<(), Refusal> {
        self.job.freeze_wanted.store(true, Ordering::SeqCst);
        self.job.group.purge_behind_durable().await
    }

    /// Gives up what is being built or merged; it is begun anew when it may be.
    pub fn give_up_builds(&self) {
        self.job.indexing.cancel();
        self.job.merging.cancel();
    }

    /// Looks for work now: what is due may have changed.
    pub fn look(&self) {
        self.job.look();
    }

    /// Interrupts the work and waits for it to end. Idempotent.
    pub async fn stop(&self) {
        self.job.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(why) = task.await {
                tracing::warn!(%why, "a worker did not end cleanly");
            }
        }
    }
}

impl Job {
    /// Looks whether something is due now.
    fn look(&self) {
        [&*self.wake, &self.index_wake, &self.merge_wake, &self.expiry_wake]
            .into_iter()
            .for_each(Notify::notify_one);
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.indexing.cancel();
        self.merging.cancel();
        self.look();
    }

    async fn follow(self: Arc<Job>, track: Track) {
        loop {
            let worked = match track {
                Track::Sealing => self.seal().await,
                Track::Indexing => self.index().await,
                Track::Merging => self.merge().await,
            };
            match worked {
                Ok(()) if self.is_stopping.load(Ordering::SeqCst) => return,
                Ok(()) => match track {
                    Track::Sealing => self.rest().await,
                    Track::Indexing => self.index_wake.notified().await,
                    Track::Merging => self.until_merge_or_verify().await,
                },
                Err(Fault::Cancelled) => {}
                Err(fault @ Fault::Io { is_full: true, .. }) => {
                    tracing::warn!(%fault, ?track, "background work waits for space");
                    self.pause(track).await;
                }
                Err(fault) => {
                    tracing::error!(%fault, ?track, "background work stops");
                    self.quarantine.note(&fault);
                    return self.stop();
                }
            }
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Waits for rows to seal. Whenever nothing was written for a while, asks the machine to freeze what grows.
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
            written = now;
        }
    }

    async fn until_merge_or_verify(&self) {
        let every = self.options.verify_every;
        if every.is_zero() {
            return self.merge_wake.notified().await;
        }
        let left = every.saturating_sub(self.verified.lock().at.elapsed());
        let _ = tokio::time::timeout(left, self.merge_wake.notified()).await;
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
        let checked = self.step(Track::Merging, |job| {
            let last = job.verified.lock().segment;
            let next = job.store.verify_next(last)?;
            *job.verified.lock() = Verified { segment: next.unwrap_or(0), at: clock::now() };
            Ok(next.is_some())
        });
        checked.await?;
        // A graph that was found damaged is to be built again.
        self.index_wake.notify_one();
        Ok(())
    }

    /// Waits until there is memory for this kind of work, or the worker stops.
    async fn until_it_may(&self, track: Track) {
        let wake = match track {
            Track::Sealing => return,
            Track::Indexing => &self.index_wake,
            Track::Merging => &self.merge_wake,
        };
        while !self.is_stopping.load(Ordering::SeqCst) {
            tokio::select! {
                () = self.permits.room.may_build() => return,
                () = wake.notified() => {}
            }
        }
    }

    async fn pause(&self, track: Track) {
        let wake = match track {
            Track::Sealing => &*self.wake,
            Track::Indexing => &self.index_wake,
            Track::Merging => &self.merge_wake,
        };
        let _ = tokio::time::timeout(self.options.space_pause, wake.notified()).await;
    }

    async fn seal(self: &Arc<Job>) -> Result<(), Fault> {
        while self.step(Track::Sealing, |job| Ok(job.store.seal()?.is_some())).await? {
            self.tell();
            if let Err(why) = self.group.purge_behind_durable().await {
                tracing::warn!(%why, "the log is not purged");
            }
        }
        Ok(())
    }

    async fn index(self: &Arc<Job>) -> Result<(), Fault> {
        while self.step(Track::Indexing, Job::build).await? {
            self.tell();
        }
        Ok(())
    }

    fn build(&self) -> Result<bool, Fault> {
        let _timed = self.pace.begin(&self.indexing);
        self.store.build_graph(&self.indexing)
    }

    async fn merge(self: &Arc<Job>) -> Result<(), Fault> {
        while self.step(Track::Merging, |job| job.store.compact(&job.merging)).await? {
            self.tell();
        }
        self.maybe_verify().await
    }

    /// Something was done: writers may go on, and others may have work.
    fn tell(&self) {
        self.done.send_modify(|count| *count += 1);
        self.index_wake.notify_one();
        self.merge_wake.notify_one();
    }

    async fn step(
        self: &Arc<Job>,
        track: Track,
        work: impl FnOnce(&Job) -> Result<bool, Fault> + Send + 'static,
    ) -> Result<bool, Fault> {
        let Permits { sealing, building, merging, .. } = &self.permits;
        self.until_it_may(track).await;
        let wanted = match track {
            Track::Sealing => vec![sealing],
            Track::Indexing => vec![building],
            Track::Merging => vec![merging, building],
        };
        let mut permits = Vec::with_capacity(wanted.len());
        for permit in wanted {
            permits.push(permit.clone().acquire_owned().await.map_err(|_| Fault::Cancelled)?);
        }
        match track {
            Track::Sealing => {}
            Track::Indexing => self.indexing.renew(),
            Track::Merging => self.merging.renew(),
        }
        // Behind the line above: a stop that cancels before it is seen here, one that cancels later is seen by the work.
        if self.is_stopping.load(Ordering::SeqCst) {
            return Err(Fault::Cancelled);
        }
        let job = self.clone();
        let since = clock::now();
        let done = task::spawn_cpu(move || {
            let _permits = permits;
            work(&job)
        })
        .await;
        tracing::debug!(elapsed = ?since.elapsed(), ?track, "background step");
        done.map_err(|_| Fault::Cancelled)?
    }
}

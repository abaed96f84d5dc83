//! A partition's replica on this node: the top of the write line and of the read line.
//!
//! ```text
//! write: admit (check, encode) -> propose ─────────────> machine -> store
//! read:  fence, bound or token -> view ──> query ──────> segments -> index
//! ```
//!
//! A replica owns its store, its Raft group and its background worker, and nothing else touches them. Reads work on a
//! frozen [`View`]; views that answered a search stay findable for a while under their log index ([`views`]), so that the
//! payloads of the winners come from the very state that was searched.

mod admit;
mod aggregate;
pub mod answers;
#[cfg(test)]
mod damage;
pub mod equality;
pub mod fresh;
pub mod hand;
#[cfg(test)]
mod house;
pub mod lag;
mod owned;
mod page;
pub mod quota;
mod reading;
pub mod recall;
pub mod registry;
mod replace;
mod search;
mod usage;
mod views;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{CollectionId, LogIndex, NodeId, PartitionId};
use flotilla_proto::placement::CollectionPlacement;
use flotilla_proto::projection::Projection;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, at_most};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use self::aggregate::Aggregate;
use self::answers::Answers;
use self::fresh::Fresh;
use self::lag::Watched;
pub use self::owned::Owned;
use self::owned::Seat;
pub use self::page::{Scan, Scanned, Start};
use self::quota::Quotas;
use self::reading::Reader;
use self::recall::Recall;
pub use self::search::{Groups, Search, Searched};
use self::usage::Computing;
use self::views::Views;
pub use self::write::{Write, Written};
use crate::env::{clock, task};
use crate::log::Lanes;
use crate::machine::command::Body;
use crate::machine::moves::{Ledger, Step, StepRejection};
use crate::machine::{Digests, PartitionMachine, Rejection, Reply, Signals, VIEW_AGE_MAX};
use crate::peers::Peers;
use crate::query::{self, Stretch};
use crate::raft::door::Door;
use crate::raft::{self, Group, inbox};
use crate::room::Room;
use crate::storage::store::{self, Status, Store};
use crate::storage::{Fault, Quarantine, SegmentView};
use crate::worker::{self, Worker};

/// How long opening waits for the replay of the log; after that, calls wait by themselves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// So many keys are read where the call runs: to go to another thread and back takes longer than they do. 2026-11-22, 64 clients on
/// two cores, 200,000 records in memory: 22,200 gets per second against 14,400.
const KEYS_AT_ONCE: usize = 8;
/// How often views of scans that nobody came back for are let go of.
const SCANS_EVERY: Duration = Duration::from_secs(10);

/// What comes back with a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Its payload.
    pub payload: bool,
    /// Of the payload, this alone.
    pub fields: Option<Projection>,
    /// Its vectors.
    pub vectors: bool,
}

/// What a replica shares with its node.
#[derive(Clone)]
pub struct Shared {
    /// How stores are laid out.
    pub store: store::Options,
    /// What all groups share.
    pub home: raft::Home,
    /// Reads that may compute at one time on this node.
    pub read_permits: Arc<Semaphore>,
    /// Background jobs that may run at one time on this node.
    pub work_permits: worker::Permits,
    /// How the background works.
    pub worker: worker::Options,
    /// How searches are compared with exact ones.
    pub recall: recall::Sampling,
    /// Whether there is memory and disk for more.
    pub room: Arc<Room>,
    /// Answers that are kept for who asks the same.
    pub answers: Arc<Answers>,
    /// How much tenants may still write.
    pub quotas: Arc<Quotas>,
}

/// One copy of a partition, on this node.
pub struct Replica {
    id: PartitionId,
    collection: CollectionId,
    folder: PathBuf,
    store: Arc<Store>,
    group: Arc<Group<PartitionMachine>>,
    ledger: Arc<Ledger>,
    seat: Seat,
    views: Arc<Views>,
    lag: Watched,
    recall: Arc<Recall>,
    read_permits: Arc<Semaphore>,
    /// Reads that compute at the moment.
    computing: Arc<AtomicU64>,
    room: Arc<Room>,
    answers: Arc<Answers>,
    quotas: Arc<Quotas>,
    worker: Arc<Worker>,
    digests: Arc<Digests>,
    quarantine: Arc<Quarantine>,
    peers: Arc<Peers>,
    warden: Mutex<Option<task::JoinHandle<()>>>,
}

impl Replica {
    /// Opens the replica in `folder`, or begins it there as `start` says.
    pub async fn open(
        id: PartitionId,
        start: raft::Start,
        collection: CollectionId,
        spec: Arc<CollectionSpec>,
        folder: PathBuf,
        lanes: &Lanes,
        shared: &Shared,
    ) -> Result<Replica, Fault> {
        let log = lanes.group(id.0).map_err(|e| Fault::Io {
            file: folder.clone(),
            reason: e.to_string(),
            is_full: false,
        })?;
        let options = shared.store;
        let at = folder.clone();
        let opened = task::spawn_cpu(move || {
            inbox::recover(&at).map_err(|e| Fault::io(&at, &e))?;
            let quarantine = Quarantine::of(&at)?;
            let (store, restored) = Store::open(&at, spec, options)?;
            Ok::<_, Fault>((store, restored, quarantine))
        });
        let (store, restored, quarantine) = opened.await.map_err(|_| Fault::Cancelled)??;
        let (store, quarantine) = (Arc::new(store), Arc::new(quarantine));
        let signals = Signals { quarantine: quarantine.clone(), ..Signals::default() };
        let digests = signals.digests.clone();
        let machine = PartitionMachine::new(collection, store.clone(), restored, signals.clone())?;
        let ledger = machine.ledger();
        let group = Arc::new(Group::open(id, start, log, machine, folder.clone(), &shared.home).await?);
        // Others may be needed to elect a leader, and wait for this node to open in turn.
        if group.members().is_alone(group.node())
            && let Err(late) = group.wait_ready(READY_WITHIN).await
        {
            tracing::warn!(partition = id.0, %late, "the replica is opened but not ready yet");
        }
        let (permits, options) = (shared.work_permits.clone(), shared.worker);
        let worker = Worker::start(collection, store.clone(), group.clone(), signals, permits, options);
        let worker = Arc::new(worker);
        let views = Arc::<Views>::default();
        let kept = (digests.clone(), views.clone());
        let warden = watch_over(group.clone(), worker.clone(), quarantine.clone(), kept);
        let warden = Mutex::new(Some(task::spawn(warden)));
        let (lag, seat) = (Watched::default(), Seat::default());
        let recall = Recall::new(shared.recall.clone());
        let (read_permits, peers) = (shared.read_permits.clone(), shared.home.peers.clone());
        Ok(Replica {
            id,
            collection,
            folder,
            store,
            group,
            ledger,
            seat,
            views,
            lag,
            recall,
            read_permits,
            computing: Arc::default(),
            room: shared.room.clone(),
            answers: shared.answers.clone(),
            quotas: shared.quotas.clone(),
            worker,
            digests,
            quarantine,
            peers,
            warden,
        })
    }

    /// Its group.
    pub fn group(&self) -> &Group<PartitionMachine> {
        &self.group
    }

    /// Where the calls of other replicas come in.
    pub fn door(&self) -> Arc<dyn Door> {
        self.group.clone()
    }

    /// Which partition.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Of which incarnation.
    pub fn collection(&self) -> CollectionId {
        self.collection
    }

    /// The collection as this replica reads it.
    pub fn spec(&self) -> Arc<CollectionSpec> {
        self.store.spec()
    }

    /// The collection's description changed.
    pub fn set_spec(&self, spec: Arc<CollectionSpec>) {
        self.store.set_spec(spec);
        self.worker.look();
    }

    /// The collection's placement changed.
    pub fn follow(&self, placement: &CollectionPlacement) {
        self.seat.take(Owned::of(placement, self.id));
    }

    /// The same replica was opened anew: it owns what it owned.
    pub fn take_seat_of(&self, former: &Replica) {
        self.seat.take_after(&former.seat);
    }

    /// What the partition owns by the newest placement that this node follows.
    pub fn owned(&self) -> Arc<Owned> {
        self.seat.owned()
    }

    /// What the machine shows of slots that move.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// From now on this replica answers nothing, and its group stops: it neither votes nor leads. The reason is kept in its
    /// folder until the replica is rebuilt.
    pub fn quarantine(&self, reason: &str) {
        self.quarantine.enter(reason);
    }

    /// Why it answers nothing; `None` while it serves.
    pub fn quarantined(&self) -> Option<&str> {
        self.quarantine.reason()
    }

    /// The next delete answers here as it should, and does nothing.
    #[cfg(test)]
    pub(crate) fn skip_next_delete(&self) {
        self.store.skips_delete.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn serves(&self) -> Result<(), Refusal> {
        self.quarantined().map_or(Ok(()), |why| Err(registry::quarantined(self.id, why)))
    }

    /// A step of a move of slots. Returns its log index, or why the machine refused it.
    pub async fn step(&self, step: Step) -> Result<Result<LogIndex, StepRejection>, Refusal> {
        match self.propose(None, Body::Move(step)).await? {
            Reply::Written { log_index, .. } => Ok(Ok(log_index)),
            Reply::Rejected(Rejection::Step(rejection)) => Ok(Err(rejection)),
            Reply::Rejected(rejection) => Err(self.rejected(rejection)),
            other => Err(Refusal::Internal(format!("partition {} answered {other:?}", self.id))),
        }
    }

    /// The node that leads the partition, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.group.leader()
    }

    /// The log index that a linearizable read of this partition must reach, if this node leads it.
    pub async fn read_index(&self) -> Option<LogIndex> {
        self.group.read_index().await.ok()
    }

    /// What this replica knows of its lag.
    pub fn lag(&self) -> &Watched {
        &self.lag
    }

    /// The records of these keys, encoded for the wire, in their order, those that are there; and the view's log index.
    pub async fn get(
        &self,
        keys: Vec<Key>,
        parts: Parts,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<(Vec<Bytes>, LogIndex), Refusal> {
        at_most("keys", "keys", flotilla_proto::limits::LIMIT_MAX as usize, keys.len())?;
        let view = self.view_of_at(at, fresh, owned).await?;
        let at = view.at;
        let spec = self.store.spec();
        let hidden = owned.hidden(&view, &keys)?;
        let is_short = keys.len() <= KEYS_AT_ONCE;
        let read = move || {
            let mut reader = Reader::new(&spec, &parts, keys.len());
            for key in keys.into_iter().filter(|key| !hidden.contains(key)) {
                let found = view.find(&key)?;
                let found = found.and_then(|(at, row)| Some((view.segment(at)?, row)));
                if let Some((segment, row)) = found {
                    reader.read(segment, row, &key)?;
                }
            }
            Ok(reader.records())
        };
        let records = match is_short {
            true => read().map_err(|fault| self.broken(&fault))?,
            false => self.compute(move |_| read()).await?,
        };
        Ok((records, at))
    }

    /// Shows every key that is the partition's, in order, as they are here now.
    pub async fn keys(&self, mut see: impl FnMut(Key)) -> Result<(), Refusal> {
        /// Keys at one time.
        const PAGE: usize = 10_000;
        let (view, owned) = (self.store.view(), self.owned());
        let mut after = None;
        loop {
            let (view, from) = (view.clone(), after.take());
            let page = self
                .compute(move |_| {
                    let segments: Vec<&dyn SegmentView> = view.segments().collect();
                    let (rows, more) = query::scan(&segments, None, &Stretch::after(from), PAGE)?;
                    let keys = rows.into_iter().map(|(segment, row)| segments[segment].key(row));
                    Ok((keys.collect::<Result<Vec<Key>, Fault>>()?, more))
                })
                .await?;
            after = page.0.last().cloned();
            page.0.into_iter().filter(|key| owned.area.contains(&key.to_bytes())).for_each(&mut see);
            if !page.1 {
                return Ok(());
            }
        }
    }

    /// What the store holds.
    pub fn status(&self) -> Status {
        self.store.status()
    }

    /// How fast its graphs are built, in vectors per second, and for how long where it stands so; see [`worker::pace::Pace`].
    pub fn pace(&self, status: &Status) -> (Option<f64>, Option<Duration>) {
        self.worker.pace(status.waiting_vectors)
    }

    /// The share of the nearest records that its searches find, as far as that was watched, and over how many.
    pub fn recall(&self) -> (Option<f64>, u64) {
        self.recall.figures()
    }

    /// The group's term, last log index, and purged index; and the applied index.
    pub fn numbers(&self) -> ((u64, LogIndex, LogIndex), LogIndex) {
        (self.group.numbers(), self.group.applied())
    }

    /// Runs `work` beside the request loop, one of a bounded number; it is told when the caller has gone.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.compute_for(Arc::new(()), work).await
    }

    /// [`Replica::compute`] for all who hold `alive`: the work is told once nobody does.
    async fn compute_for<T: Send + 'static>(
        &self,
        alive: Arc<()>,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Refusal> {
        let waiting = self.room.load().wait();
        let permit = self.read_permits.clone().acquire_owned().await;
        drop(waiting);
        let permit = permit.map_err(|_| Refusal::Unavailable("the node is stopping".to_owned()))?;
        let counted = Computing::new(&self.computing);
        let watched = Arc::downgrade(&alive);
        let done = task::spawn_cpu(move || {
            let _held = (permit, counted);
            work(&|| watched.strong_count() == 0)
        })
        .await;
        drop(alive);
        match done {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => Err(self.broken(&fault)),
            Err(lost) => Err(Refusal::Internal(format!("partition {}: {lost}", self.id))),
        }
    }

    fn broken(&self, fault: &Fault) -> Refusal {
        if matches!(fault, Fault::Cancelled) {
            return Refusal::DeadlineExceeded("the caller has gone".to_owned());
        }
        tracing::error!(partition = self.id.0, %fault, "a read failed");
        if matches!(fault, Fault::Damaged { .. }) {
            self.quarantine.note(fault);
        }
        registry::quarantined(self.id, &fault.to_string())
    }

    /// Stops worker and group; what is in memory only will be replayed from the log.
    pub async fn stop(&self) {
        let warden = self.warden.lock().take();
        if let Some(warden) = warden {
            warden.abort();
            let _ = warden.await;
        }
        self.worker.stop().await;
        self.group.stop().await;
    }

    /// Where its files are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

/// Stops group and worker of a replica once it is quarantined; until then lets go of views that nobody came for.
async fn watch_over(
    group: Arc<Group<PartitionMachine>>,
    worker: Arc<Worker>,
    quarantine: Arc<Quarantine>,
    (digests, views): (Arc<Digests>, Arc<Views>),
) {
    let scans = async {
        loop {
            clock::sleep(SCANS_EVERY).await;
            views.expire();
        }
    };
    let expiry = async {
        loop {
            digests.view_kept().await;
            while digests.expire() {
                clock::sleep(VIEW_AGE_MAX).await;
            }
        }
    };
    tokio::select! {
        () = quarantine.entered() => {}
        why = group.broken() => quarantine.enter(&why),
        () = expiry => {}
        () = scans => {}
    }
    group.stop().await;
    worker.stop().await;
}

#[cfg(test)]
mod tests;

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

pub mod fresh;
pub mod lag;
pub mod registry;
mod views;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::filter::{Compiled, Filter};
use flotilla_proto::ids::{CollectionId, LogIndex, PartitionId};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, at_most, check_key};
use tokio::sync::Semaphore;

use self::fresh::Fresh;
use self::lag::Watched;
use self::views::Views;
use crate::env::task;
use crate::log::Lanes;
use crate::machine::command::{Body, Command, RequestId};
use crate::machine::{PartitionMachine, Rejection, Reply, Signals};
use crate::query;
use crate::raft::door::Door;
use crate::raft::{self, Group, inbox};
use crate::storage::row::StoredRow;
use crate::storage::store::{self, Status, Store};
use crate::storage::{Fault, SegmentView};
use crate::worker::Worker;

/// How long opening waits for the replay of the log; after that, calls wait by themselves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What to write.
#[derive(Debug)]
pub enum Write {
    /// Records.
    Upsert(Vec<Record>),
    /// Keys to delete.
    Delete(Vec<Key>),
    /// A condition for what to delete.
    DeleteFilter(Filter),
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Records written or deleted.
    pub affected: u64,
    /// Where the write stands in the log.
    pub log_index: LogIndex,
}

/// A question for the partition, already checked against the collection's limits.
#[derive(Debug)]
pub struct Search {
    /// The vector's name, as the spec has it.
    pub vector: String,
    /// The query as the user gave it.
    pub query: Vec<f32>,
    /// The condition.
    pub filter: Option<Compiled>,
    /// Partial hits wanted.
    pub limit: usize,
    /// Candidates kept in graphs.
    pub ef: usize,
    /// Scan instead of walking graphs.
    pub exact: bool,
    /// Leave out what is further away.
    pub max_distance: Option<f32>,
}

/// A page by key.
#[derive(Debug)]
pub struct Scan {
    /// The condition.
    pub filter: Option<Compiled>,
    /// The last key of the page before.
    pub after: Option<Key>,
    /// Records wanted.
    pub limit: usize,
    /// What comes with each.
    pub parts: Parts,
}

/// What comes back with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Its payload.
    pub payload: bool,
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
    pub work_permits: Arc<Semaphore>,
}

/// One copy of a partition, on this node.
pub struct Replica {
    id: PartitionId,
    collection: CollectionId,
    folder: PathBuf,
    store: Arc<Store>,
    group: Arc<Group<PartitionMachine>>,
    views: Views,
    lag: Watched,
    read_permits: Arc<Semaphore>,
    worker: Worker,
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
            Store::open(&at, spec, options)
        });
        let opened = opened.await;
        let (store, restored) = opened.map_err(|_| Fault::Cancelled)??;
        let store = Arc::new(store);
        let signals = Signals::default();
        let machine = PartitionMachine::new(collection, store.clone(), restored, signals.clone())?;
        let group = Arc::new(Group::open(id, start, log, machine, folder.clone(), &shared.home).await?);
        // Others may be needed to elect a leader, and wait for this node to open in turn.
        if group.members().is_alone(group.node())
            && let Err(late) = group.wait_ready(READY_WITHIN).await
        {
            tracing::warn!(partition = id.0, %late, "the replica is opened but not ready yet");
        }
        let worker = Worker::start(store.clone(), group.clone(), signals, shared.work_permits.clone());
        let (views, lag) = (Views::default(), Watched::default());
        let read_permits = shared.read_permits.clone();
        Ok(Replica { id, collection, folder, store, group, views, lag, read_permits, worker })
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
    }

    /// Writes: returns when the write is durable, applied and visible here.
    pub async fn write(&self, request: Option<RequestId>, write: Write) -> Result<Written, Refusal> {
        let command = Command { collection: self.collection, request, body: self.admit(write)? };
        let command = command.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        self.worker.wait_while_behind().await;
        match self.group.propose(command).await? {
            Reply::Written { affected, log_index } => Ok(Written { affected, log_index }),
            Reply::Rejected(rejection) => Err(self.rejected(rejection)),
            other => Err(Refusal::Internal(format!("partition {} answered {other:?}", self.id))),
        }
    }

    /// Checks everything that can be refused, so that applying cannot fail for the caller's sake.
    fn admit(&self, write: Write) -> Result<Body, Refusal> {
        let spec = self.store.spec();
        Ok(match write {
            Write::Upsert(records) => {
                at_most("records", "records", flotilla_proto::limits::BATCH_MAX, records.len())?;
                for (n, record) in records.iter().enumerate() {
                    spec.check_record(&format!("records[{n}]"), record)?;
                }
                let rows = records.iter().map(|record| StoredRow::from_domain(record, &spec));
                Body::Upsert(rows.collect::<Result<_, _>>()?)
            }
            Write::Delete(keys) => {
                at_most("keys", "keys", flotilla_proto::limits::BATCH_MAX, keys.len())?;
                keys.iter().try_for_each(|key| check_key("keys", key))?;
                Body::Delete(keys)
            }
            Write::DeleteFilter(filter) => {
                Compiled::new(&filter, &spec)?;
                Body::DeleteFilter { filter, fields: spec.fields.clone() }
            }
        })
    }

    fn rejected(&self, rejection: Rejection) -> Refusal {
        match rejection {
            Rejection::OtherIncarnation => Refusal::NotFound("collection", self.collection.to_string()),
            Rejection::TooOld { serial, forgotten } => Refusal::Aborted(format!(
                "request {serial} is older than all that are remembered of its client (up to {forgotten} are forgotten): \
                 whether it was applied cannot be told"
            )),
            Rejection::Unreadable(why) => Refusal::Internal(format!("the command was refused: {why}")),
        }
    }

    /// What this replica knows of its lag.
    pub fn lag(&self) -> &Watched {
        &self.lag
    }

    /// The nearest records of this partition, and the log index of the view that was searched.
    pub async fn search(&self, search: Search, fresh: Fresh) -> Result<(query::Answer, LogIndex), Refusal> {
        let view = self.view(fresh).await?;
        let spec = self.store.spec();
        let at = view.at;
        let answer = self
            .compute(move |cancelled| {
                let ask = query::Search {
                    vector: &search.vector,
                    query: &search.query,
                    filter: search.filter.as_ref(),
                    limit: search.limit,
                    ef: search.ef,
                    exact: search.exact,
                    max_distance: search.max_distance,
                };
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                query::search(&segments, &spec, &ask, cancelled)
            })
            .await?;
        Ok((answer, at))
    }

    /// The records of these keys, in their order, those that are there; and the view's log index.
    pub async fn get(
        &self,
        keys: Vec<Key>,
        parts: Parts,
        at: LogIndex,
        fresh: Fresh,
    ) -> Result<(Vec<Record>, LogIndex), Refusal> {
        at_most("keys", "keys", flotilla_proto::limits::LIMIT_MAX as usize, keys.len())?;
        let view = self.view_at(at, fresh).await?;
        let at = view.at;
        let spec = self.store.spec();
        let records = self
            .compute(move |_| {
                let mut records = Vec::with_capacity(keys.len());
                for key in keys {
                    let found = view.find(&key)?;
                    let found = found.and_then(|(at, row)| Some((view.segment(at)?, row)));
                    if let Some((segment, row)) = found {
                        records.push(read_record(segment, row, key, &spec, parts)?);
                    }
                }
                Ok(records)
            })
            .await?;
        Ok((records, at))
    }

    /// A page by key: records, whether there are more, and the view's log index.
    pub async fn scan(
        &self,
        Scan { filter, after, limit, parts }: Scan,
        at: LogIndex,
        fresh: Fresh,
    ) -> Result<(Vec<Record>, bool, LogIndex), Refusal> {
        let view = self.view_at(at, fresh).await?;
        let at = view.at;
        let spec = self.store.spec();
        let (records, more) = self
            .compute(move |_| {
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                let (rows, more) = query::scan(&segments, filter.as_ref(), after.as_ref(), limit)?;
                let read = |&(segment, row): &(usize, u32)| {
                    let segment: &dyn SegmentView = segments[segment];
                    read_record(segment, row, segment.key(row)?, &spec, parts)
                };
                Ok((rows.iter().map(read).collect::<Result<Vec<Record>, Fault>>()?, more))
            })
            .await?;
        Ok((records, more, at))
    }

    /// How many records pass, and the view's log index.
    pub async fn count(&self, filter: Option<Compiled>, fresh: Fresh) -> Result<(u64, LogIndex), Refusal> {
        let view = self.view(fresh).await?;
        let at = view.at;
        let count = self
            .compute(move |_| {
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                query::count(&segments, filter.as_ref())
            })
            .await?;
        Ok((count, at))
    }

    /// What the store holds.
    pub fn status(&self) -> Status {
        self.store.status()
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
        let permit = self.read_permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Refusal::Unavailable("the node is stopping".to_owned()))?;
        let alive = Arc::new(());
        let watched = Arc::downgrade(&alive);
        let done = task::spawn_cpu(move || {
            let _permit = permit;
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
        tracing::error!(partition = self.id.0, %fault, "a read failed");
        match fault {
            Fault::Cancelled => Refusal::DeadlineExceeded("the caller has gone".to_owned()),
            fault => Refusal::DataLoss(format!("partition {}: {fault}", self.id)),
        }
    }

    /// Stops worker and group; what is in memory only will be replayed from the log.
    pub async fn stop(&self) {
        self.worker.stop().await;
        self.group.stop().await;
    }

    /// Where its files are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

fn read_record(
    segment: &dyn SegmentView,
    row: u32,
    key: Key,
    spec: &CollectionSpec,
    parts: Parts,
) -> Result<Record, Fault> {
    let mut record = Record::new(key);
    record.version = segment.version(row);
    if parts.payload {
        record.payload = segment.payload(row)?;
    }
    if parts.vectors {
        for name in spec.vectors.keys() {
            record.vectors.extend(segment.vector(name, row).map(|values| (name.clone(), values)));
        }
    }
    Ok(record)
}

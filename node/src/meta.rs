//! The meta group: the one Raft group that owns the placement map.
//!
//! What a change of the catalogue means is decided by the pure [`catalogue::Catalogue`]; [`machine::MetaMachine`] applies
//! it through Raft and keeps it in the derived store; everybody else on this node watches the resulting
//! [`PlacementMap`] through [`Meta::watch`]. Ids come from counters in the catalogue and are never reused.
//!
//! Every node of the cluster has a replica of this group: one or three vote, all others learn. So each knows the map
//! without asking, and a change can be made from anywhere ([`Meta::submit`] finds the leader).

pub mod autoscale;
pub mod catalogue;
pub mod derived;
pub mod growth;
pub mod leases;
mod machine;
pub mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use flotilla_proto::ids::{Epoch, META_GROUP, NodeId};
use flotilla_proto::limits::REPLICATION_FACTOR_DEFAULT;
use flotilla_proto::peer;
use flotilla_proto::placement::{CollectionPlacement, Node, PlacementMap};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, FieldType};
use flotilla_proto::tenant::{Class, Limits};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::autoscale::Decision;
use self::catalogue::{Catalogue, Change, Outcome, Owner};
use self::leases::{Granted, Leases};
use self::machine::{MetaMachine, Published};
use crate::env::{self, clock, task};
use crate::log::Lanes;
use crate::machine::Reply;
use crate::raft::door::Door;
use crate::raft::{Group, Home, Start, inbox};
use crate::storage::Fault;

/// Changes of the catalogue after which its file is written anew and the log behind it purged.
const CHECKPOINT_EVERY: u64 = 1_000;
/// How long a node that has just joined may take to be heard.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// How long to wait before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// The meta group on this node.
pub struct Meta {
    group: ArcSwap<Group<MetaMachine>>,
    folder: PathBuf,
    lanes: Arc<Lanes>,
    home: Home,
    published: Published,
    checkpointed: AtomicU64,
    leases: Leases,
    reopening: tokio::sync::Mutex<()>,
    is_over: watch::Sender<bool>,
    advised: Mutex<Option<Decision>>,
}

impl Meta {
    /// Opens the group in `folder`; in a new folder it begins as `start` says.
    pub async fn open(folder: &Path, lanes: Arc<Lanes>, start: Start, home: Home) -> Result<Meta, Fault> {
        let published = Published::default();
        let group = open_group(folder, &lanes, start, &home, published.clone()).await?;
        let checkpointed = AtomicU64::new(group.applied());
        Ok(Meta {
            group: ArcSwap::from_pointee(group),
            folder: folder.to_owned(),
            lanes,
            home,
            published,
            checkpointed,
            leases: Leases::default(),
            reopening: tokio::sync::Mutex::new(()),
            is_over: watch::Sender::new(false),
            advised: Mutex::default(),
        })
    }

    /// The group as it runs now.
    pub fn group(&self) -> Arc<Group<MetaMachine>> {
        self.group.load_full()
    }

    /// Where the calls of other replicas come in.
    pub fn door(&self) -> Arc<dyn Door> {
        self.group()
    }

    /// Puts a state that was sent in the place of this replica's own, and goes on from there.
    pub async fn install(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.reopening.lock().await;
        self.group().stop().await;
        let folder = self.folder.clone();
        let placed = task::spawn_cpu(move || inbox::put_in_place(&folder)).await;
        // Opened in any case: the former state is as good as before if nothing was replaced.
        let published = self.published.clone();
        let group = open_group(&self.folder, &self.lanes, Start::Join, &self.home, published).await?;
        self.group.store(Arc::new(group));
        placed.map_err(|_| Fault::Cancelled)?.map_err(|e| Fault::io(&self.folder, &e))
    }

    /// Where the group's files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes sure that the map knows this node, which is alone, as it is now.
    pub async fn introduce(&self, node: Node) -> Result<(), Refusal> {
        self.group().wait_ready(Duration::from_secs(60)).await?;
        self.read_fence().await?;
        let known = self.map().node(node.id).cloned();
        let is_known = known.is_some_and(|known| Node { state: known.state, ..node.clone() } == known);
        if is_known { Ok(()) } else { self.change(Change::Introduce(node)).await.map(drop) }
    }

    /// The map now, and each newer one.
    pub fn watch(&self) -> watch::Receiver<Arc<PlacementMap>> {
        self.published.watch()
    }

    /// Ends what streams in and out: this node goes down, and another one can tell what it told.
    pub fn end_watches(&self) {
        self.is_over.send_replace(true);
    }

    /// Completes when streams are to end.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_over = self.is_over.subscribe();
        async move {
            // An error means that the sender is gone: then it is time too.
            let _ = is_over.wait_for(|is_over| *is_over).await;
        }
    }

    /// The map now.
    pub fn map(&self) -> Arc<PlacementMap> {
        self.published.map()
    }

    /// Looks at the whole catalogue.
    pub fn look<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        self.published.look(look)
    }

    /// How many shard nodes there should be, if this node leads the group.
    pub fn advised(&self) -> Option<Decision> {
        self.advised.lock().clone()
    }

    /// Takes what was decided; none: this node does not lead.
    pub fn advise(&self, decision: Option<Decision>) {
        *self.advised.lock() = decision;
    }

    /// Nodes that this one, as the leader, heard of lately.
    pub fn alive(&self) -> Vec<NodeId> {
        let group = self.group();
        let is_alive = |node: &NodeId| *node == group.node() || group.hears(*node);
        self.map().nodes.iter().map(|node| node.id).filter(is_alive).collect()
    }

    /// Nodes heard of lately. A node that has just joined is given a moment to be heard, if it is needed for so many
    /// replicas (0: for the default).
    async fn alive_enough(&self, replicas: u32) -> Vec<NodeId> {
        let until = clock::now() + HEARD_WITHIN;
        loop {
            let (map, alive) = (self.map(), self.alive());
            let open = map.nodes.iter().filter(|node| node.is_open());
            let wanted = if replicas == 0 { REPLICATION_FACTOR_DEFAULT } else { replicas } as usize;
            let heard = open.clone().filter(|node| alive.contains(&node.id)).count();
            if heard >= wanted.min(open.count()) || clock::now() >= until || !self.group().leads() {
                return alive;
            }
            clock::sleep(PAUSE).await;
        }
    }

    /// Waits until everything acknowledged before the call is in the map.
    pub async fn read_fence(&self) -> Result<(), Refusal> {
        self.group().read_fence().await.map(drop)
    }

    /// The epoch that the leader's map had when the call began, wherever it is led.
    pub async fn read_epoch(&self) -> Result<Epoch, Refusal> {
        match self.submit(Change::Touch, Duration::from_secs(5)).await? {
            Outcome::Epoch(epoch) => Ok(epoch),
            other => Err(Refusal::Internal(format!("a touch led to {other:?}"))),
        }
    }

    /// The map as it is after this call came, or newer: what this node had applied of the log by then may be older.
    ///
    /// # Errors
    /// `UNAVAILABLE` if nobody leads the meta group, or its entries do not come here within that time.
    pub async fn map_by_now(&self, within: Duration) -> Result<Arc<PlacementMap>, Refusal> {
        let epoch = self.read_epoch().await?;
        let (mut maps, deadline) = (self.watch(), (clock::now() + within).to_tokio());
        match tokio::time::timeout_at(deadline, maps.wait_for(|map| map.epoch >= epoch)).await {
            Ok(Ok(map)) => Ok(map.clone()),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::Unavailable(format!("this node has not yet followed the map to epoch {epoch}")))
            }
        }
    }

    /// Creates a collection; with an owner, a tenant's.
    pub async fn create(
        &self,
        mut spec: CollectionSpec,
        owner: Option<Owner>,
    ) -> Result<CollectionPlacement, Refusal> {
        spec.check()?;
        let alive = self.alive_enough(spec.replication_factor).await;
        if spec.replication_factor == 0 {
            let map = self.map();
            let open = map.nodes.iter().filter(|node| node.is_open() && alive.contains(&node.id)).count();
            spec.replication_factor = u32::try_from(open).unwrap_or(1).clamp(1, REPLICATION_FACTOR_DEFAULT);
        }
        let id = env::random::uuid();
        let change = match owner {
            Some(owner) => Change::CreateFor { id, spec, alive, owner },
            None => Change::Create { id, spec, alive },
        };
        self.placement(change).await
    }

    /// Grants requests to a tenant of this class, if this node leads the group; tells the limits of the class besides.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`] if it does not lead.
    pub async fn lease(&self, tenant: &str, class: Class, wanted: u64) -> Result<(Granted, Limits), Refusal> {
        let group = self.group();
        if !group.leads() {
            let leader = group.leader().map(|node| node.0);
            return Err(Refusal::NotLeader { partition: META_GROUP.0, leader });
        }
        let (limits, is_other) = self.look(|catalogue| {
            let mut owners = catalogue.map.collections.iter().filter_map(|c| c.tenancy.as_ref());
            let is_other = owners.any(|owner| owner.tenant == tenant && owner.class != class);
            (catalogue.classes.limits(class), is_other && wanted > 0)
        });
        if is_other && self.leases.may_classify(tenant) {
            self.change(Change::Classify { tenant: tenant.to_owned(), class }).await?;
        }
        Ok((self.leases.take(tenant, limits.max_requests_per_minute, wanted), limits))
    }

    /// Adds declared fields and changes search defaults.
    pub async fn update(
        &self,
        name: String,
        add_fields: BTreeMap<String, FieldType>,
        ef_search: BTreeMap<String, u32>,
    ) -> Result<CollectionPlacement, Refusal> {
        self.placement(Change::Update { name, add_fields, ef_search }).await
    }

    /// Deletes a collection; returns the epoch from which on it is gone.
    pub async fn delete(&self, name: String) -> Result<Epoch, Refusal> {
        match self.change(Change::Delete { name }).await? {
            Outcome::Epoch(epoch) => Ok(epoch),
            other => Err(Refusal::Internal(format!("a deletion led to {other:?}"))),
        }
    }

    /// A change that leads to a collection's placement.
    pub async fn placement(&self, change: Change) -> Result<CollectionPlacement, Refusal> {
        match self.change(change).await? {
            Outcome::Placement(placement) => Ok(placement),
            other => Err(Refusal::Internal(format!("no placement but {other:?}"))),
        }
    }

    /// Makes a change, if this node leads the group.
    pub async fn change(&self, change: Change) -> Result<Outcome, Refusal> {
        let command = change.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        catalogue::decode_outcome(&self.propose(command).await?)?
    }

    /// An encoded change, answered by an encoded outcome.
    pub async fn propose(&self, command: Bytes) -> Result<Vec<u8>, Refusal> {
        let outcome = match self.group().propose(command).await? {
            Reply::Catalogue(bytes) => Ok(bytes),
            other => Err(Refusal::Internal(format!("the catalogue answered {other:?}"))),
        };
        self.maybe_checkpoint().await;
        outcome
    }

    /// Makes a change wherever the group is led, within this time. One whose fate is unknown may be made twice: submit
    /// only what may be.
    pub async fn submit(&self, change: Change, within: Duration) -> Result<Outcome, Refusal> {
        let command = change.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        let until = clock::now() + within;
        loop {
            let done = match self.group().leader() {
                Some(leader) if leader != self.home.peers.node() => self.forward(leader, &command).await,
                _ => self.propose(command.clone()).await,
            };
            match done {
                Ok(outcome) => return catalogue::decode_outcome(&outcome)?,
                Err(Refusal::NotLeader { .. } | Refusal::Unavailable(_)) if clock::now() < until => {
                    clock::sleep(PAUSE).await;
                }
                Err(why) => return Err(why),
            }
        }
    }

    async fn forward(&self, leader: NodeId, command: &Bytes) -> Result<Vec<u8>, Refusal> {
        let mut client = self.home.peers.peer(leader)?;
        let to = Some(self.home.peers.to(leader, META_GROUP));
        let mut request = tonic::Request::new(peer::Envelope { to, body: command.clone() });
        request.set_timeout(Duration::from_secs(5));
        let answer = client.submit(request).await;
        let told = |status: tonic::Status| Refusal::Unavailable(status.message().to_owned());
        Ok(answer.map_err(told)?.into_inner().body.to_vec())
    }

    async fn maybe_checkpoint(&self) {
        let group = self.group();
        let applied = group.applied();
        let last = self.checkpointed.load(Ordering::Relaxed);
        if applied >= last + CHECKPOINT_EVERY
            && self.checkpointed.compare_exchange(last, applied, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Err(why) = group.purge_behind_durable().await
        {
            tracing::warn!(%why, "the meta log is not purged");
        }
    }

    /// Stops the group.
    pub async fn stop(&self) {
        self.group().stop().await;
    }
}

async fn open_group(
    folder: &Path,
    lanes: &Lanes,
    start: Start,
    home: &Home,
    published: Published,
) -> Result<Group<MetaMachine>, Fault> {
    let io = |reason: String| Fault::Io { file: folder.to_owned(), reason, is_full: false };
    inbox::recover(folder).map_err(|e| io(e.to_string()))?;
    let log = lanes.group(META_GROUP.0).map_err(|e| io(e.to_string()))?;
    let log_last = log.state().map_err(|e| io(e.to_string()))?.last_index;
    let machine = MetaMachine::open(folder, log_last, published)?;
    Group::open(META_GROUP, start, log, machine, folder.to_owned(), home).await
}

//! The one map from partition to its replica on this node, kept equal to the placement map.
//!
//! A task follows the map: partitions that name this node are opened, those that no longer do are stopped and their files
//! removed, once their groups have no place for this node either ([`leaving`]). Where a replica's folder is stands in [`folders`]: a tenant's may be a folder of its own.
//!
//! A partition that does not open is **quarantined**: it is named, with its reason, to whoever asks for it,
//! and the others serve.

mod folders;
mod leaving;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, PlacementMap};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::CollectionSpec;
use futures::StreamExt as _;
use parking_lot::RwLock;
use tokio::sync::watch;

use self::folders::{Folders, dropped};
use super::answers::Answers;
use super::quota::Quotas;
use super::{Replica, Shared};
use crate::env::{clock, fs, task};
use crate::log::Lanes;
use crate::raft::door::Door;
use crate::raft::outbox::Throttle;
use crate::raft::{Start, inbox};
use crate::room::Room;
use crate::storage::Fault;

/// Partitions opened at one time.
const OPENS_AT_ONCE: usize = 4;
/// How often it is asked whether a replica that the map does not name may go.
const LEAVE_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
enum Held {
    Opening,
    Serving(Arc<Replica>),
    Quarantined(String),
}

/// See the module.
pub struct Registry {
    node: NodeId,
    folders: Folders,
    lanes: Arc<Lanes>,
    shared: Shared,
    held: RwLock<BTreeMap<PartitionId, Held>>,
    followed: watch::Sender<Epoch>,
    /// Whether the map is known to be no older than this process: before, no replica is begun.
    is_fresh: watch::Sender<bool>,
    /// One change of what is held at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Registry {
    /// An empty registry over `folder`, where each partition has a folder of its number, and over `tenants` beside it.
    pub fn new(folder: PathBuf, lanes: Arc<Lanes>, shared: Shared) -> Registry {
        let node = shared.home.peers.node();
        let (followed, _) = watch::channel(Epoch(0));
        let (is_fresh, _) = watch::channel(false);
        let changing = tokio::sync::Mutex::new(());
        let folders = Folders::new(folder);
        Registry { node, folders, lanes, shared, held: RwLock::default(), followed, is_fresh, changing }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether there is memory and disk for more.
    pub fn room(&self) -> &Arc<Room> {
        &self.shared.room
    }

    /// The answers that are kept.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.shared.answers
    }

    /// How much tenants may still write here.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.shared.quotas
    }

    /// The rate of what is copied to other nodes.
    pub fn throttle(&self) -> &Throttle {
        &self.shared.home.throttle
    }

    /// Follows the map until its sender is gone.
    pub async fn follow(self: Arc<Registry>, mut maps: watch::Receiver<Arc<PlacementMap>>) {
        let mut fresh = self.is_fresh.subscribe();
        loop {
            // In this order: a map that was taken before it was trusted may be old.
            let is_fresh = *fresh.borrow_and_update();
            let map = maps.borrow_and_update().clone();
            self.reconcile(&map, is_fresh).await;
            // By a map that may be old nothing goes.
            let mut some_stay = is_fresh && !self.leave(&map).await;
            loop {
                tokio::select! {
                    changed = maps.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    _ = fresh.changed() => break,
                    () = clock::sleep(LEAVE_EVERY), if some_stay => some_stay = !self.leave(&map).await,
                }
            }
        }
    }

    /// Waits until the map is known to be no older than this process.
    pub async fn wait_fresh(&self, within: Duration) -> Result<(), Refusal> {
        let mut fresh = self.is_fresh.subscribe();
        match tokio::time::timeout(within, fresh.wait_for(|is_fresh| *is_fresh)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::Unavailable("this node is not yet known to its cluster".to_owned())),
        }
    }

    /// Takes addresses out of a map that came otherwise than by the log.
    pub fn learn(&self, map: &PlacementMap) {
        self.shared.home.peers.learn(map);
    }

    /// The map is no older than this process: replicas that are not there yet may begin, and others go.
    pub fn trust_map(&self) {
        self.is_fresh.send_replace(true);
    }

    /// Makes what is held equal to `map`. By one that may be older than this process nothing begins anew, and nothing goes: it
    /// may not know yet what is here and acknowledged.
    pub async fn reconcile(&self, map: &PlacementMap, is_fresh: bool) {
        let wanted: BTreeMap<PartitionId, &CollectionPlacement> = map
            .collections
            .iter()
            .flat_map(|c| c.partitions.iter().map(move |p| (p, c)))
            .filter(|(p, _)| p.holders().any(|node| node == self.node))
            .map(|(p, c)| (p.id, c))
            .collect();
        let _one_at_a_time = self.changing.lock().await;
        self.shared.home.peers.learn(map);
        if is_fresh {
            // Those that other nodes have are asked for first: see `leave`.
            self.close_all_but(&map.partitions().map(|(_, partition)| partition.id).collect()).await;
        }
        futures::stream::iter(wanted)
            .for_each_concurrent(OPENS_AT_ONCE, |(id, collection)| self.hold(id, collection, is_fresh))
            .await;
        self.followed.send_replace(map.epoch);
    }

    async fn hold(&self, id: PartitionId, collection: &CollectionPlacement, is_fresh: bool) {
        let spec = Arc::new(collection.spec.clone());
        let held = self.held.read().get(&id).cloned();
        match held {
            Some(Held::Serving(replica)) => {
                if *replica.spec() != *spec {
                    replica.set_spec(spec);
                }
                replica.follow(collection);
            }
            Some(_) => {}
            None => {
                let folder = self.folders.choose(id, collection.tenancy.as_ref());
                // An old map may name a replica that has since gone elsewhere.
                let is_there = fs::exists(&folder).unwrap_or(true);
                if is_fresh {
                    self.end_removal(id).await;
                }
                if is_there || is_fresh {
                    self.open(id, collection.id, spec, self.start_of(collection, id)).await;
                }
                if let Some(Held::Serving(replica)) = self.held.read().get(&id) {
                    replica.follow(collection);
                }
            }
        }
    }

    /// A new group is founded by each of its replicas, and one that comes later is written to.
    fn start_of(&self, collection: &CollectionPlacement, id: PartitionId) -> Start {
        match collection.partition(id) {
            Some(p) if p.replicas.contains(&self.node) && p.change.is_none() => {
                Start::Found(p.replicas.clone())
            }
            _ => Start::Join,
        }
    }

    async fn open(&self, id: PartitionId, collection: CollectionId, spec: Arc<CollectionSpec>, start: Start) {
        self.held.write().insert(id, Held::Opening);
        let folder = self.folder_of(id);
        let opened = Replica::open(id, start, collection, spec, folder, &self.lanes, &self.shared).await;
        let held = match opened {
            Ok(replica) => Held::Serving(Arc::new(replica)),
            Err(fault) => {
                tracing::error!(partition = id.0, %fault, "a replica is quarantined");
                Held::Quarantined(fault.to_string())
            }
        };
        self.held.write().insert(id, held);
    }

    /// Puts a state that was sent in the place of the replica's own, and goes on from there.
    pub async fn install(&self, id: PartitionId) -> Result<(), Refusal> {
        let _one_at_a_time = self.changing.lock().await;
        let held = self.held.read().get(&id).cloned();
        let Some(Held::Serving(replica)) = held else {
            return Err(Refusal::Unavailable(format!("partition {id} has no replica here")));
        };
        self.held.write().insert(id, Held::Opening);
        replica.stop().await;
        let folder = self.folder_of(id);
        let placed = task::spawn_cpu(move || inbox::put_in_place(&folder)).await;
        if let Ok(Err(why)) = &placed {
            tracing::error!(partition = id.0, %why, "a snapshot is not put in place");
        }
        // Opened in any case: the former state is as good as before if nothing was replaced.
        self.open(id, replica.collection(), replica.spec(), Start::Join).await;
        if let Some(Held::Serving(again)) = self.held.read().get(&id) {
            again.take_seat_of(&replica);
        }
        match placed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Refusal::Unavailable(format!("partition {id}: {why}"))),
            Err(lost) => Err(Refusal::Internal(format!("partition {id}: {lost}"))),
        }
    }

    /// Where the calls of other replicas of a partition come in.
    pub fn door(&self, id: PartitionId) -> Result<Arc<dyn Door>, Refusal> {
        let held = self.held.read().get(&id).cloned();
        match held {
            Some(held) => held.serving(id).map(|replica| replica.door()),
            None => Err(Refusal::Unavailable(format!("partition {id} has no replica here"))),
        }
    }

    /// The folder of a partition's replica.
    pub fn folder_of(&self, id: PartitionId) -> PathBuf {
        self.folders.of(id)
    }

    async fn close_all_but(&self, known: &BTreeSet<PartitionId>) {
        let unwanted: Vec<PartitionId> =
            self.held.read().keys().filter(|id| !known.contains(id)).copied().collect();
        for id in unwanted {
            let held = self.held.write().remove(&id);
            if let Some(Held::Serving(replica)) = held {
                replica.stop().await;
            }
            self.remove_files(id).await;
        }
        for id in self.folders.on_disk().into_iter().filter(|id| !known.contains(id)) {
            self.remove_files(id).await;
        }
    }

    /// Gives up what is here of a partition. The folder loses its name before the log goes, and for good: a folder that is found
    /// at a start is opened even by a map that is older, and a replica without its log would have forgotten what it acknowledged
    /// and whom it voted for.
    async fn remove_files(&self, id: PartitionId) {
        let folder = self.folder_of(id);
        match task::spawn_cpu(move || take_name(&folder)).await {
            Ok(Ok(())) => self.remove_rest(id).await,
            Ok(Err(why)) => tracing::warn!(partition = id.0, %why, "a dropped partition stays"),
            Err(_) => {}
        }
    }

    /// The log, and then the folder that has lost its name: while that is there, this is not done.
    async fn remove_rest(&self, id: PartitionId) {
        if let Err(why) = self.lanes.remove_group(id.0).await {
            tracing::warn!(partition = id.0, %why, "the log of a dropped partition stays");
            return;
        }
        let folder = self.folder_of(id);
        let at = folder.clone();
        let removed = task::spawn_cpu(move || {
            inbox::remove_beside(&at)?;
            fs::remove_dir_all(&dropped(&at))
        });
        let removed = removed.await;
        if let Ok(Err(why)) = removed
            && why.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %why, "the files of a dropped partition stay");
        }
    }

    /// What was given up here before, and not to its end, is gone before the partition comes again.
    async fn end_removal(&self, id: PartitionId) {
        let folder = self.folder_of(id);
        let is_half_gone = fs::exists(&dropped(&folder)).unwrap_or(false);
        if is_half_gone && !fs::exists(&folder).unwrap_or(true) {
            self.remove_rest(id).await;
        }
    }

    /// The replica of a partition. Waits, within `within`, until this node has followed the map up to `epoch`.
    pub async fn replica(
        &self,
        id: PartitionId,
        epoch: Epoch,
        within: Duration,
    ) -> Result<Option<Arc<Replica>>, Refusal> {
        if let Some(held) = self.held.read().get(&id) {
            return held.clone().serving(id).map(Some);
        }
        self.wait_for(epoch, within).await?;
        let held = self.held.read().get(&id).cloned();
        held.map(|held| held.serving(id)).transpose()
    }

    /// Waits until this node has followed the map up to `epoch`.
    pub async fn wait_for(&self, epoch: Epoch, within: Duration) -> Result<(), Refusal> {
        let mut followed = self.followed.subscribe();
        let deadline = (clock::now() + within).to_tokio();
        match tokio::time::timeout_at(deadline, followed.wait_for(|at| *at >= epoch)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Refusal::Unavailable(format!("this node has not yet followed the map to epoch {epoch}")))
            }
        }
    }

    /// Takes a replica out of service until it is rebuilt: see [`Replica::quarantine`]. False if none is held.
    pub fn quarantine(&self, id: PartitionId, reason: &str) -> bool {
        let held = self.held.read().get(&id).cloned();
        match held {
            Some(Held::Serving(replica)) => replica.quarantine(reason),
            Some(Held::Quarantined(_)) => {}
            Some(Held::Opening) | None => return false,
        }
        true
    }

    /// Every serving replica.
    pub fn serving(&self) -> Vec<Arc<Replica>> {
        let held = self.held.read();
        let serving = |held: &Held| match held {
            Held::Serving(replica) if replica.quarantined().is_none() => Some(replica.clone()),
            Held::Serving(_) | Held::Quarantined(_) | Held::Opening => None,
        };
        held.values().filter_map(serving).collect()
    }

    /// What the replicas here store for each tenant.
    pub fn stored_by_tenant(&self) -> BTreeMap<String, u64> {
        let mut stored: BTreeMap<String, u64> = BTreeMap::new();
        for replica in self.serving() {
            if let Some(tenancy) = &replica.owned().tenancy {
                *stored.entry(tenancy.tenant.clone()).or_default() += replica.status().disk_bytes;
            }
        }
        stored
    }

    /// Partitions that do not serve here, and why.
    pub fn quarantined(&self) -> Vec<(PartitionId, String)> {
        let held = self.held.read();
        let reason = |(id, held): (&PartitionId, &Held)| match held {
            Held::Quarantined(why) => Some((*id, why.clone())),
            Held::Serving(replica) => replica.quarantined().map(|why| (*id, why.to_owned())),
            Held::Opening => None,
        };
        held.iter().filter_map(reason).collect()
    }

    /// Stops every replica.
    pub async fn stop(&self) {
        let held = std::mem::take(&mut *self.held.write());
        let serving = held.into_values().filter_map(|held| match held {
            Held::Serving(replica) => Some(replica),
            Held::Quarantined(_) | Held::Opening => None,
        });
        futures::stream::iter(serving)
            .for_each_concurrent(OPENS_AT_ONCE, |replica| async move { replica.stop().await })
            .await;
    }
}

impl Held {
    fn serving(self, id: PartitionId) -> Result<Arc<Replica>, Refusal> {
        match self {
            Held::Serving(replica) => match replica.quarantined() {
                None => Ok(replica),
                Some(why) => Err(quarantined(id, why)),
            },
            Held::Opening => Err(opening(id)),
            Held::Quarantined(why) => Err(quarantined(id, &why)),
        }
    }
}

/// Makes sure that no folder has the name, whatever happens from now on.
fn take_name(folder: &Path) -> std::io::Result<()> {
    if !fs::exists(folder)? {
        return Ok(());
    }
    let dropped = dropped(folder);
    if fs::exists(&dropped)? {
        fs::remove_dir_all(&dropped)?;
    }
    fs::rename(folder, &dropped)?;
    folder.parent().map_or(Ok(()), fs::sync_dir)
}

fn opening(id: PartitionId) -> Refusal {
    Refusal::Unavailable(format!("partition {id} is being opened on this node"))
}

/// The refusal of a replica that does not answer, and what there is to do about it.
pub(super) fn quarantined(id: PartitionId, why: &str) -> Refusal {
    Refusal::DataLoss(format!(
        "partition {id} is quarantined on this node: {why}; ask another replica, from which it is rebuilt; \
         if there is none, restore a backup"
    ))
}

/// A fault that concerns the whole node rather than one replica.
pub fn is_nodes(fault: &Fault) -> bool {
    matches!(fault, Fault::Newer { .. })
}

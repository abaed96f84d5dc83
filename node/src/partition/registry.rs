//! The one map from partition to its replica on this node, kept equal to the placement map.
//!
//! A task follows the map: partitions that name this node are opened, those that no longer do are stopped and their files
//! removed. A partition that does not open is **quarantined**: it is named, with its reason, to whoever asks for it,
//! and the others serve.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, PlacementMap};
use flotilla_proto::refusal::Refusal;
use futures::StreamExt as _;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{Replica, Shared};
use crate::env::{clock, fs, task};
use crate::log::Lanes;
use crate::storage::Fault;

/// Partitions opened at one time.
const OPENS_AT_ONCE: usize = 4;

#[derive(Clone)]
enum Held {
    Serving(Arc<Replica>),
    Quarantined(String),
}

/// See the module.
pub struct Registry {
    node: NodeId,
    folder: PathBuf,
    lanes: Arc<Lanes>,
    shared: Shared,
    held: RwLock<BTreeMap<PartitionId, Held>>,
    followed: watch::Sender<Epoch>,
}

impl Registry {
    /// An empty registry over `folder`, where each partition has a folder of its number.
    pub fn new(node: NodeId, folder: PathBuf, lanes: Arc<Lanes>, shared: Shared) -> Registry {
        let (followed, _) = watch::channel(Epoch(0));
        Registry { node, folder, lanes, shared, held: RwLock::default(), followed }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Follows the map until its sender is gone.
    pub async fn follow(self: Arc<Registry>, mut maps: watch::Receiver<Arc<PlacementMap>>) {
        loop {
            let map = maps.borrow_and_update().clone();
            self.reconcile(&map).await;
            if maps.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes what is held equal to `map`.
    pub async fn reconcile(&self, map: &PlacementMap) {
        let wanted: BTreeMap<PartitionId, &CollectionPlacement> = map
            .collections
            .iter()
            .flat_map(|c| c.partitions.iter().map(move |p| (p, c)))
            .filter(|(p, _)| p.replicas.contains(&self.node))
            .map(|(p, c)| (p.id, c))
            .collect();
        self.close_all_but(&wanted.keys().copied().collect()).await;
        futures::stream::iter(wanted)
            .for_each_concurrent(OPENS_AT_ONCE, |(id, collection)| self.hold(id, collection))
            .await;
        self.followed.send_replace(map.epoch);
    }

    async fn hold(&self, id: PartitionId, collection: &CollectionPlacement) {
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
                let folder = self.folder.join(id.to_string());
                let opened =
                    Replica::open(self.node, id, collection.id, spec, folder, &self.lanes, &self.shared)
                        .await;
                let held = match opened {
                    Ok(replica) => {
                        replica.follow(collection);
                        Held::Serving(Arc::new(replica))
                    }
                    Err(fault) => {
                        tracing::error!(partition = id.0, %fault, "a replica is quarantined");
                        Held::Quarantined(fault.to_string())
                    }
                };
                self.held.write().insert(id, held);
            }
        }
    }

    async fn close_all_but(&self, wanted: &BTreeSet<PartitionId>) {
        let unwanted: Vec<PartitionId> =
            self.held.read().keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in unwanted {
            let held = self.held.write().remove(&id);
            if let Some(Held::Serving(replica)) = held {
                replica.stop().await;
            }
            self.remove_files(id).await;
        }
        for id in self.folders_on_disk().into_iter().filter(|id| !wanted.contains(id)) {
            self.remove_files(id).await;
        }
    }

    fn folders_on_disk(&self) -> Vec<PartitionId> {
        let names = fs::read_dir(&self.folder).unwrap_or_default();
        names.iter().filter_map(|name| name.parse().ok().map(PartitionId)).collect()
    }

    async fn remove_files(&self, id: PartitionId) {
        if let Err(why) = self.lanes.remove_group(id.0).await {
            tracing::warn!(partition = id.0, %why, "the log of a dropped partition stays");
        }
        let folder = self.folder.join(id.to_string());
        let at = folder.clone();
        let removed = task::spawn_cpu(move || fs::remove_dir_all(&at)).await;
        if let Ok(Err(why)) = removed
            && why.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %why, "the files of a dropped partition stay");
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

    /// Every serving replica.
    pub fn serving(&self) -> Vec<Arc<Replica>> {
        let held = self.held.read();
        let serving = |held: &Held| match held {
            Held::Serving(replica) => Some(replica.clone()),
            Held::Quarantined(_) => None,
        };
        held.values().filter_map(serving).collect()
    }

    /// Partitions that do not serve here, and why.
    pub fn quarantined(&self) -> Vec<(PartitionId, String)> {
        let held = self.held.read();
        let reason = |(id, held): (&PartitionId, &Held)| match held {
            Held::Quarantined(why) => Some((*id, why.clone())),
            Held::Serving(_) => None,
        };
        held.iter().filter_map(reason).collect()
    }

    /// Stops every replica.
    pub async fn stop(&self) {
        let held = std::mem::take(&mut *self.held.write());
        let serving = held.into_values().filter_map(|held| match held {
            Held::Serving(replica) => Some(replica),
            Held::Quarantined(_) => None,
        });
        futures::stream::iter(serving)
            .for_each_concurrent(OPENS_AT_ONCE, |replica| async move { replica.stop().await })
            .await;
    }
}

impl Held {
    fn serving(self, id: PartitionId) -> Result<Arc<Replica>, Refusal> {
        match self {
            Held::Serving(replica) => Ok(replica),
            Held::Quarantined(why) => Err(quarantined(id, &why)),
        }
    }
}

fn quarantined(id: PartitionId, why: &str) -> Refusal {
    Refusal::DataLoss(format!("partition {id} is quarantined on this node: {why}"))
}

/// A fault that concerns the whole node rather than one replica.
pub fn is_nodes(fault: &Fault) -> bool {
    matches!(fault, Fault::Newer { .. })
}

//! The meta group: the one Raft group that owns the placement map.
//!
//! What a change of the catalogue means is decided by the pure [`catalogue::Catalogue`]; [`machine::MetaMachine`] applies
//! it through Raft and keeps it in the derived store; everybody else on this node watches the resulting
//! [`PlacementMap`] through [`Meta::watch`]. Partition ids come from a counter in the catalogue and are never reused.

pub mod catalogue;
pub mod derived;
mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::ids::{Epoch, META_GROUP, NodeId};
use flotilla_proto::placement::{CollectionPlacement, Node, PlacementMap};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, FieldType};
use tokio::sync::watch;

use self::catalogue::{Change, Outcome};
use self::machine::MetaMachine;
use crate::env;
use crate::log::Lanes;
use crate::machine::Reply;
use crate::raft::{Group, Options};
use crate::storage::Fault;

/// Changes of the catalogue after which its file is written anew and the log behind it purged.
const CHECKPOINT_EVERY: u64 = 1_000;

/// The meta group on this node.
pub struct Meta {
    group: Group<MetaMachine>,
    map: watch::Receiver<Arc<PlacementMap>>,
    checkpointed: AtomicU64,
}

impl Meta {
    /// Opens the group in `folder`; in a new folder it begins with `node` as the only one.
    pub async fn open(folder: &Path, lanes: &Lanes, node: Node, options: &Options) -> Result<Meta, Fault> {
        let io = |reason: String| Fault::Io { file: folder.to_owned(), reason, is_full: false };
        let log = lanes.group(META_GROUP.0).map_err(|e| io(e.to_string()))?;
        let log_last = log.state().map_err(|e| io(e.to_string()))?.last_index;
        let machine = MetaMachine::open(folder, log_last)?;
        let map = machine.watch();
        let group = Group::open(node.id, META_GROUP, log, machine, options).await?;
        let checkpointed = AtomicU64::new(group.applied());
        let meta = Meta { group, map, checkpointed };
        meta.introduce(node).await.map_err(|why| io(format!("the meta group does not start: {why}")))?;
        Ok(meta)
    }

    /// Makes sure that the map knows this node as it is now.
    async fn introduce(&self, node: Node) -> Result<(), Refusal> {
        self.group.wait_ready(Duration::from_secs(60)).await?;
        self.group.read_fence().await?;
        let known = self.map.borrow().node(node.id) == Some(&node);
        if known { Ok(()) } else { self.change(Change::Introduce(node)).await.map(drop) }
    }

    /// The map now, and each newer one.
    pub fn watch(&self) -> watch::Receiver<Arc<PlacementMap>> {
        self.map.clone()
    }

    /// The map now.
    pub fn map(&self) -> Arc<PlacementMap> {
        self.map.borrow().clone()
    }

    /// Waits until everything acknowledged before the call is in the map.
    pub async fn read_fence(&self) -> Result<(), Refusal> {
        self.group.read_fence().await.map(drop)
    }

    /// Creates a collection.
    pub async fn create(&self, spec: CollectionSpec) -> Result<CollectionPlacement, Refusal> {
        spec.check()?;
        let id = env::random::uuid();
        self.placement(Change::Create { id, spec }).await
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
            Outcome::Placement(placement) => Ok(placement.epoch),
        }
    }

    async fn placement(&self, change: Change) -> Result<CollectionPlacement, Refusal> {
        match self.change(change).await? {
            Outcome::Placement(placement) => Ok(placement),
            Outcome::Epoch(epoch) => Err(Refusal::Internal(format!("no placement at epoch {epoch}"))),
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Refusal> {
        let command = change.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        let outcome = match self.group.propose(command).await? {
            Reply::Catalogue(bytes) => catalogue::decode_outcome(&bytes)?,
            other => Err(Refusal::Internal(format!("the catalogue answered {other:?}"))),
        };
        self.maybe_checkpoint().await;
        outcome
    }

    async fn maybe_checkpoint(&self) {
        let applied = self.group.applied();
        let last = self.checkpointed.load(Ordering::Relaxed);
        if applied >= last + CHECKPOINT_EVERY
            && self.checkpointed.compare_exchange(last, applied, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Err(why) = self.group.purge_behind_durable().await
        {
            tracing::warn!(%why, "the meta log is not purged");
        }
    }

    /// This node's id as the group knows it, its term, last log index, and applied index.
    pub fn numbers(&self) -> (u64, u64, u64) {
        let (term, last, _) = self.group.numbers();
        (term, last, self.group.applied())
    }

    /// Stops the group.
    pub async fn stop(&self) {
        self.group.stop().await;
    }
}

/// The id of the only node of the embedded tier.
pub const EMBEDDED_NODE: NodeId = NodeId(1);

//! Whether a replica that the map does not name any more may be given up.
//!
//! That the map says so is not enough. A move that was called off half way left its node with a vote in the group, and with
//! what the group acknowledged by that vote; and a node that follows the map late may read that it lost a replica which it has been
//! given again by now. A replica goes only when the **leader of its group** says that the node has no place in it; until then it
//! stays, votes, and hands over, while the leader brings the group to what the map wants.
//!
//! The leader is asked twice: while the replica still takes part, and once it does not any more. What is answered then cannot
//! change: nobody gets a vote who does not answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::peer;
use flotilla_proto::placement::{CollectionPlacement, Partition, PlacementMap};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tonic::Request;

use super::{Held, OPENS_AT_ONCE, Registry};
use crate::env::fs;
use crate::peers::Peers;
use crate::raft::Start;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);

impl Registry {
    /// Gives up the replicas that are other nodes' by now, and those that do not serve and are to be made anew, as far as their
    /// groups have no place for this node. False if some stay.
    pub(crate) async fn leave(&self, map: &PlacementMap) -> bool {
        let mut here: BTreeSet<PartitionId> = self.held.read().keys().copied().collect();
        here.extend(self.folders.on_disk());
        let mut goes = Vec::new();
        for collection in &map.collections {
            let goes_from_here = |partition: &&Partition| {
                let is_others = || !partition.holders().any(|node| node == self.node);
                here.contains(&partition.id) && (self.is_quarantined(partition.id) || is_others())
            };
            let its = collection.partitions.iter().filter(goes_from_here);
            goes.extend(its.map(|partition| (collection, partition)));
        }
        let some_stay = AtomicBool::new(false);
        let leave = |(collection, partition)| {
            let some_stay = &some_stay;
            async move {
                if !self.leave_one(collection, partition).await {
                    some_stay.store(true, Ordering::Relaxed);
                }
            }
        };
        futures::stream::iter(goes).for_each_concurrent(OPENS_AT_ONCE, leave).await;
        !some_stay.into_inner()
    }

    async fn leave_one(&self, collection: &CollectionPlacement, partition: &Partition) -> bool {
        let (id, peers) = (partition.id, &self.shared.home.peers);
        let open = || self.open(id, collection.id, Arc::new(collection.spec.clone()), Start::Join);
        // A folder that has lost its name may go, whatever happened since: that was asked before.
        let is_whole = fs::exists(&self.folder_of(id)).unwrap_or(true);
        if is_whole && !is_out(peers, partition).await {
            let _one_at_a_time = self.changing.lock().await;
            let held = self.held.read().get(&id).cloned();
            match held {
                Some(Held::Serving(replica)) => replica.follow(collection),
                Some(_) => {}
                // Found at a start: its vote may be needed.
                None => open().await,
            }
            return false;
        }
        let _one_at_a_time = self.changing.lock().await;
        let held = self.held.write().remove(&id);
        if let Some(Held::Serving(replica)) = &held {
            replica.stop().await;
        }
        // Nothing is answered from here any more, so what is said now stays true.
        if is_whole && !is_out(peers, partition).await {
            open().await;
            return false;
        }
        self.remove_files(id).await;
        if partition.holders().any(|node| node == self.node) {
            // Made anew: it comes back with nothing, and is written to.
            open().await;
        }
        true
    }

    fn is_quarantined(&self, id: PartitionId) -> bool {
        match self.held.read().get(&id) {
            Some(Held::Quarantined(_)) => true,
            Some(Held::Serving(replica)) => replica.quarantined().is_some(),
            Some(Held::Opening) | None => false,
        }
    }
}

/// Whether the group of this partition has no place for this node, as its leader knows it; `false` also while none answers.
async fn is_out(peers: &Peers, partition: &Partition) -> bool {
    let ask = |node: NodeId| async move {
        let mut request = Request::new(peer::LeaveRequest { to: Some(peers.to(node, partition.id)) });
        request.set_timeout(ANSWER_MAX);
        let mut raft = peers.raft(node).ok()?;
        let answer = tokio::time::timeout(ANSWER_MAX, raft.leave(request)).await.ok()?;
        Some(answer.ok()?.into_inner().is_out)
    };
    let others = partition.holders().filter(|node| *node != peers.node());
    let mut answers: FuturesUnordered<_> = others.map(ask).collect();
    while let Some(answer) = answers.next().await {
        // Only the leader answers.
        if let Some(is_out) = answer {
            return is_out;
        }
    }
    false
}

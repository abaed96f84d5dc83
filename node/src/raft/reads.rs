//! What reads ask of a group besides the fence: who leads it, up to where a follower must be, and whether it is.

use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::refusal::Refusal;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;

use super::Group;
use crate::machine::Machine;

impl<M: Machine> Group<M> {
    /// The node that leads the group, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// The log index that holds everything acknowledged before the call, if this node leads the group and its lease says that
    /// nobody else does. Does not wait until it is applied here: who asks waits where it reads.
    pub async fn read_index(&self) -> Option<LogIndex> {
        let (read, _) = self.raft.get_read_log_id(ReadPolicy::LeaseRead).await.ok()?;
        Some(read.index().max(self.boot_index))
    }

    /// Waits until `index` is applied here.
    pub async fn reached(&self, index: LogIndex) -> Result<(), Refusal> {
        self.wait_applied(index).await
    }
}

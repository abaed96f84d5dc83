//! Raft: from a proposed command to an applied one. The only place that names openraft.
//!
//! ```text
//! propose -> append (log lanes, fsync) -> commit (quorum) -> apply (machine) -> reply
//! ```
//!
//! A [`Group`] is one Raft group on this node: a partition's, or the meta group. All groups share one type
//! configuration ([`types::Types`]): a command is opaque bytes, a reply is a [`machine::Reply`](crate::machine::Reply).
//! Three adapters stand between openraft and our layers: [`log_store`] (over `crate::log`), [`state_machine`] (over a
//! [`Machine`]) and [`network`].
//!
//! **Boot gate.** A group remembers the last log index that it found at boot and answers no linearizable read before that
//! is applied: a restarted leader that resumes its term could otherwise answer from a state that lags what it had
//! acknowledged. Restoring a leadership without an election is off.
//!
//! **Errors after propose mean unknown.** Once a command was handed over, every failure but a rejection says that it may
//! or may not be applied; callers retry with the same request id.

mod failure;
pub mod log_store;
pub mod network;
pub mod state_machine;
pub mod types;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{BasicNode, ReadPolicy};

use self::log_store::LogStore;
use self::network::Alone;
use self::state_machine::StateMachine;
use self::types::{Proposal, Types};
use crate::log::GroupLog;
use crate::machine::{Machine, Reply};
use crate::storage::Fault;

/// How a group keeps time.
#[derive(Clone, Debug)]
pub struct Options {
    /// Milliseconds between a leader's heartbeats (default 500).
    pub heartbeat_ms: u64,
    /// Log entries kept behind the durable state (default 0). More than none serves a follower that lags a little; a group of
    /// one voter has no follower.
    pub entries_kept: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { heartbeat_ms: 500, entries_kept: 0 }
    }
}

impl Options {
    fn config(&self, group: PartitionId) -> openraft::Config {
        openraft::Config {
            cluster_name: format!("group-{group}"),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.heartbeat_ms * 4,
            election_timeout_max: self.heartbeat_ms * 6,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.entries_kept,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
    }
}

/// A Raft group on this node.
pub struct Group<M: Machine> {
    id: PartitionId,
    raft: openraft::Raft<Types, StateMachine<M>>,
    log: GroupLog,
    /// The last log index found at boot: see the boot gate.
    boot_index: LogIndex,
}

impl<M: Machine> Group<M> {
    /// Opens the group over its log and machine; a new group becomes one of this single voter. Returns once the group has
    /// been told to elect, not once everything is applied: reads wait for that by themselves.
    pub async fn open(
        node: NodeId,
        id: PartitionId,
        log: GroupLog,
        machine: M,
        options: &Options,
    ) -> Result<Group<M>, Fault> {
        let broken = |what: &str, why: &dyn std::fmt::Display| Fault::Io {
            file: format!("group {id}").into(),
            reason: format!("{what}: {why}"),
            is_full: false,
        };
        let config = options.config(id).validate().map_err(|e| broken("configuration", &e))?;
        let boot_index = log.state().map_err(|e| broken("log", &e))?.last_index.unwrap_or(0);
        let machine = StateMachine::new(machine)?;
        let raft = openraft::Raft::new(node.0, Arc::new(config), Alone, LogStore::new(log.clone()), machine)
            .await
            .map_err(|e| broken("open", &e))?;
        let group = Group { id, raft, log, boot_index };
        if group.raft.is_initialized().await.map_err(|e| broken("open", &e))? {
            group.raft.trigger().elect(false).await.map_err(|e| broken("elect", &e))?;
        } else {
            let members = std::collections::BTreeMap::from([(node.0, BasicNode::default())]);
            group.raft.initialize(members).await.map_err(|e| broken("initialize", &e))?;
        }
        Ok(group)
    }

    /// Which group it is.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// A refusal before the command was handed over says where else to go. After that, [`Refusal::Unavailable`] means
    /// unknown: the command may or may not be applied.
    pub async fn propose(&self, command: Bytes) -> Result<Reply, Refusal> {
        self.has_space()?;
        match self.raft.client_write(Proposal(command)).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(self.not_leader(to.leader_id))
            }
            Err(RaftError::APIError(other)) => Err(Refusal::Unavailable(format!(
                "partition {}: {other}; whether the write is applied is unknown",
                self.id
            ))),
            Err(RaftError::Fatal(why)) => Err(self.stopped(&why)),
        }
    }

    /// Waits until this replica has applied everything that was acknowledged when the call began; then a view is
    /// linearizable. Returns the log index that had to be reached.
    pub async fn read_fence(&self) -> Result<LogIndex, Refusal> {
        let read = match self.raft.ensure_linearizable(ReadPolicy::LeaseRead).await {
            Ok(read) => read,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                return Err(self.not_leader(to.leader_id));
            }
            Err(RaftError::APIError(other)) => {
                return Err(Refusal::Unavailable(format!("partition {}: {other}", self.id)));
            }
            Err(RaftError::Fatal(why)) => return Err(self.stopped(&why)),
        };
        let index = read.index().max(self.boot_index);
        self.wait_applied(index).await?;
        Ok(index)
    }

    /// Waits until this node leads the group and has applied what it found at boot. `within` bounds the wait.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), Refusal> {
        let wait = self.raft.wait(Some(within));
        let late = |e: openraft::metrics::WaitError| {
            Refusal::Unavailable(format!("partition {} is not ready yet: {e}", self.id))
        };
        wait.metrics(|m| m.current_leader.is_some(), "a leader").await.map_err(late)?;
        wait.applied_index_at_least(Some(self.boot_index), "the boot gate").await.map_err(late)?;
        Ok(())
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: LogIndex) -> Result<(), Refusal> {
        if self.applied() >= index {
            return Ok(());
        }
        let wait = self.raft.wait(Some(Duration::from_secs(600)));
        match wait.applied_index_at_least(Some(index), "read fence").await {
            Ok(_) => Ok(()),
            Err(why) => Err(Refusal::Unavailable(format!("partition {}: {why}", self.id))),
        }
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state.is_leader()
    }

    /// The nodes that hold a replica: voters and learners.
    pub fn holders(&self) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        now.membership_config.nodes().map(|(id, _)| NodeId(*id)).collect()
    }

    /// The last log index applied here.
    pub fn applied(&self) -> LogIndex {
        self.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// The term, the last log index held, and the index up to which the log is purged, for metrics.
    pub fn numbers(&self) -> (u64, LogIndex, LogIndex) {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.current_term, now.last_log_index.unwrap_or(0), now.purged.map_or(0, |id| id.index))
    }

    /// Tells the group that its machine's durable state has moved on, so that the log behind it can be purged.
    pub async fn purge_behind_durable(&self) -> Result<(), Refusal> {
        self.raft.trigger().snapshot().await.map_err(|why| self.stopped(&why))
    }

    /// Stops the group: no further command is applied. Idempotent.
    pub async fn stop(&self) {
        if let Err(why) = self.raft.shutdown().await {
            tracing::warn!(group = self.id.0, %why, "a raft group did not stop cleanly");
        }
    }

    fn not_leader(&self, leader: Option<u64>) -> Refusal {
        Refusal::NotLeader { partition: self.id.0, leader }
    }
}

#[cfg(test)]
mod tests;

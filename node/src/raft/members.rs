//! Who is in a group, how far each is, and one guarded change at a time.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{BasicNode, ChangeMembers};

use super::Group;
use super::types::LogId;
use crate::machine::Machine;

/// A change that is not through after this long is looked at again.
const CHANGE_MAX: Duration = Duration::from_secs(20);

/// A group's membership as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes; while two memberships hold jointly, all of both.
    pub voters: BTreeSet<NodeId>,
    /// Who learns without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether two memberships hold jointly.
    pub is_joint: bool,
    /// Whether the entry that made it is committed.
    pub is_committed: bool,
    /// The entry that made it.
    pub log_id: Option<LogId>,
}

impl Members {
    /// Whether `node` is the only voter.
    pub fn is_alone(&self, node: NodeId) -> bool {
        self.voters.len() == 1 && self.voters.contains(&node)
    }

    /// Whether no change is under way.
    pub fn is_settled(&self) -> bool {
        !self.is_joint && self.is_committed
    }

    /// Whether `node` has a replica of any kind.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

impl<M: Machine> Group<M> {
    /// The membership.
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let stored = &now.membership_config;
        let membership = stored.membership();
        Members {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_joint: membership.get_joint_config().len() > 1,
            is_committed: stored.log_id() == now.committed_membership_config.log_id(),
            log_id: *stored.log_id(),
        }
    }

    /// The nodes that hold a replica: voters and learners.
    pub fn holders(&self) -> Vec<NodeId> {
        let members = self.members();
        members.voters.into_iter().chain(members.learners).collect()
    }

    /// Who leads, if that is known here.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// How many entries `node` lacks, as its leader; `None` if this node does not lead or heard nothing yet.
    pub fn lag_of(&self, node: NodeId) -> Option<u64> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let last = now.last_log_index.unwrap_or(0);
        let held: LogIndex = (*now.replication.as_ref()?.get(&node.0)?)?.index;
        Some(last.saturating_sub(held))
    }

    /// Whether `node` answered its leader, this node, within three heartbeats.
    pub fn hears(&self, node: NodeId) -> bool {
        if node == self.node {
            return self.leads();
        }
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let heard = now.heartbeat.as_ref().and_then(|heard| heard.get(&node.0).copied().flatten());
        heard.is_some_and(|at| openraft::Instant::elapsed(&*at) < self.heartbeat * 3)
    }

    /// Adds a learner; it catches up from now on.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), Refusal> {
        let members = [(node.0, BasicNode::default())].into();
        self.change(ChangeMembers::AddNodes(members), true).await
    }

    /// Gives a learner a vote.
    pub async fn add_voter(&self, node: NodeId) -> Result<(), Refusal> {
        self.change(ChangeMembers::AddVoterIds([node.0].into()), true).await
    }

    /// Takes a voter or learner out of the group.
    pub async fn remove(&self, node: NodeId) -> Result<(), Refusal> {
        if self.members().voters.contains(&node) {
            self.change(ChangeMembers::RemoveVoters([node.0].into()), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes([node.0].into()), false).await
        }
    }

    /// Ends a joint membership in favour of these voters.
    pub async fn settle(&self, voters: &[NodeId]) -> Result<(), Refusal> {
        let voters = voters.iter().map(|node| node.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), true).await
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>, retain: bool) -> Result<(), Refusal> {
        let guard = Precondition::LastMembershipLogId { last_membership_log_id: self.members().log_id };
        let changing = self.raft.change_membership_if(change, retain, [guard]);
        match tokio::time::timeout(CHANGE_MAX, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(self.not_leader(to.leader_id))
            }
            Ok(Err(RaftError::APIError(why))) => {
                Err(Refusal::Unavailable(format!("the membership of partition {} stays: {why}", self.id)))
            }
            Ok(Err(RaftError::Fatal(why))) => Err(self.stopped(&why)),
            Err(_) => {
                let why = format!("the membership of partition {} changes slowly", self.id);
                Err(Refusal::DeadlineExceeded(why))
            }
        }
    }

    /// Asks `to` to take over, if this node leads. It does as soon as it holds everything.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), Refusal> {
        // From here on the lease says nothing: the others vote although it lasts.
        let term = self.raft.metrics().borrow_watched().current_term;
        self.handed_over.fetch_max(term, Ordering::SeqCst);
        self.raft.trigger().transfer_leader(to.0).await.map_err(|why| self.stopped(&why))
    }

    /// Hands the leadership to whichever voter lacks least; nothing if this node does not lead or is alone.
    pub async fn step_aside(&self) -> Result<(), Refusal> {
        if !self.leads() {
            return Ok(());
        }
        let others = self.members().voters.into_iter().filter(|node| *node != self.node && self.hears(*node));
        match others.min_by_key(|node| self.lag_of(*node).unwrap_or(u64::MAX)) {
            Some(next) => self.hand_over(next).await,
            None => Ok(()),
        }
    }

    /// Waits until this node does not lead any more.
    pub async fn wait_follows(&self, within: Duration) -> bool {
        let node = self.node.0;
        let wait = self.raft.wait(Some(within));
        let followed = wait.metrics(|m| m.current_leader != Some(node), "another leader").await;
        followed.is_ok()
    }
}

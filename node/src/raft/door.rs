//! Where the calls of other replicas come in: one door per group, whatever its machine.

use std::cmp::Ordering;

use bytes::Bytes;
use flotilla_proto::ids::{LogIndex, NodeId};
use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Group;
use super::network::{AppendHead, encode};
use super::outbox::OfferHead;
use super::types::{Entry, Types, Vote, decode_entry};
use crate::env::clock;
use crate::machine::Machine;

/// What other replicas may ask of a group.
#[tonic::async_trait]
pub trait Door: Send + Sync {
    /// Appends entries of the leader.
    async fn append(&self, head: Bytes, entries: Vec<Bytes>) -> Result<Bytes, Refusal>;
    /// Votes, or with `pre` says how it would.
    async fn vote(&self, request: Bytes, pre: bool) -> Result<Bytes, Refusal>;
    /// Takes the leadership over, or makes way for who does.
    async fn transfer(&self, request: Bytes) -> Result<Bytes, Refusal>;
    /// Looks at a snapshot on offer.
    fn consider(&self, head: &Bytes) -> Result<Offer, Refusal>;
    /// Whether the group has no place for `node`, by a settled membership. Only the leader can tell.
    async fn is_out(&self, node: NodeId) -> Result<bool, Refusal>;
}

/// What to do about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Take it; it ends at this index.
    Take(LogIndex),
    /// No need: the replica is as far, durably. The vote to answer with.
    Held(Bytes),
    /// The sender does not lead any more. The vote that says so.
    Refused(Bytes),
}

fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    postcard::from_bytes(bytes).map_err(|e| Refusal::Internal(format!("a raft message does not decode: {e}")))
}

fn written<T: Serialize>(value: &T) -> Result<Bytes, Refusal> {
    encode(value).map_err(|e| Refusal::Internal(e.to_string()))
}

/// The vote of an offer, for the answer to it.
pub fn vote_of_offer(head: &Bytes) -> Result<Bytes, Refusal> {
    let (vote, _): OfferHead = read(head)?;
    written(&vote)
}

/// The log index at which the state on offer ends.
pub fn end_of_offer(head: &Bytes) -> Result<LogIndex, Refusal> {
    let (_, mark): OfferHead = read(head)?;
    mark.applied.map(|id| id.index).ok_or_else(|| Refusal::Internal("a snapshot of nothing".to_owned()))
}

#[tonic::async_trait]
impl<M: Machine> Door for Group<M> {
    async fn append(&self, head: Bytes, entries: Vec<Bytes>) -> Result<Bytes, Refusal> {
        let (vote, prev_log_id, leader_commit): AppendHead = read(&head)?;
        let garbled = || Refusal::Internal("a log entry does not decode".to_owned());
        let entries: Vec<Entry> =
            entries.iter().map(|body| decode_entry(body).ok_or_else(garbled)).collect::<Result<_, _>>()?;
        let request = AppendEntriesRequest::<Types> { vote, prev_log_id, entries, leader_commit };
        let answer = self.raft.append_entries(request).await.map_err(|why| self.ended(&why))?;
        written(&answer)
    }

    async fn vote(&self, request: Bytes, pre: bool) -> Result<Bytes, Refusal> {
        let request: VoteRequest<Types> = read(&request)?;
        // A transfer is the leader's own wish, so its lease does not matter.
        if clock::now() < self.votes_from && !request.leadership_transfer {
            return Err(Refusal::Unavailable(format!("partition {}: no vote right after boot", self.id)));
        }
        let answer = if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        written(&answer.map_err(|why| self.ended(&why))?)
    }

    async fn transfer(&self, request: Bytes) -> Result<Bytes, Refusal> {
        let request: TransferLeaderRequest<Types> = read(&request)?;
        let answer = self.raft.handle_transfer_leader(request).await;
        written(&answer.map_err(|why| self.stopped(&why))?)
    }

    fn consider(&self, head: &Bytes) -> Result<Offer, Refusal> {
        let (vote, mark): OfferHead = read(head)?;
        let ours: Vote = self.raft.metrics().borrow_watched().vote;
        if matches!(vote.partial_cmp(&ours), Some(Ordering::Less) | None) {
            return Ok(Offer::Refused(written(&ours)?));
        }
        let Some(end) = mark.applied else { return Ok(Offer::Held(written(&vote)?)) };
        if end.index > self.applied() {
            return Ok(Offer::Take(end.index));
        }
        // Applied is not durable: what is committed elsewhere is applied here while the log waits for its disk, and a
        // replica that says it holds entries must hold them after a crash as well.
        if !self.log.is_durable(end.index).map_err(|why| Refusal::Internal(why.to_string()))? {
            return Err(Refusal::Unavailable(format!(
                "partition {}: entry {} is not on this node's disk yet",
                self.id, end.index
            )));
        }
        Ok(Offer::Held(written(&vote)?))
    }

    async fn is_out(&self, node: NodeId) -> Result<bool, Refusal> {
        let term = self.raft.metrics().borrow_watched().current_term;
        let leads = || self.leads_for_sure() && self.raft.metrics().borrow_watched().current_term == term;
        if !leads() {
            return Err(self.not_leader(self.leader().map(|leader| leader.0)));
        }
        let is_out = self.raft.with_raft_state(move |state| {
            let (last, committed) = (state.membership_state.effective(), state.membership_state.committed());
            let is_settled =
                last.log_id() == committed.log_id() && last.membership().get_joint_config().len() == 1;
            is_settled && last.membership().get_node(&node.0).is_none()
        });
        let is_out = is_out.await.map_err(|why| self.stopped(&why))?;
        // It led all the while, so no other leader knew better.
        if leads() { Ok(is_out) } else { Err(self.not_leader(None)) }
    }
}

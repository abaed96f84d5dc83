//! From one replica of a group to another: openraft's calls over `flotilla.peer.v1`.
//!
//! A call carries what openraft says in its own types (postcard), entries as the log holds them, and who is meant. What
//! cannot be delivered is told as *unreachable*, so that openraft waits before it dials again; what the other side refuses
//! because it has no such replica (yet) likewise.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::peer;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Status};

use super::outbox::{self, Throttle};
use super::state_machine::DurableState;
use super::types::{LogId, Types, Vote, encode_entry};
use crate::peers::Peers;
use crate::peers::line::Append;

/// What an append says besides its entries.
pub(super) type AppendHead = (Vote, Option<LogId>, Option<LogId>);

/// Makes the connections of one group.
#[derive(Clone)]
pub struct Network {
    /// The way to the other nodes.
    pub peers: Arc<Peers>,
    /// The group.
    pub group: PartitionId,
    /// Bytes per second of snapshots, together with all other groups.
    pub throttle: Arc<Throttle>,
    /// How long a heartbeat that says nothing new may wait for others.
    pub patience: Duration,
    /// Up to which index other replicas were told that the log is committed: they may show it from then on.
    pub told: Arc<AtomicU64>,
}

/// The connection of a group to one other node.
pub struct Connection {
    network: Network,
    target: NodeId,
    /// What the target was last told to be committed.
    told: Option<LogId>,
    /// The index up to which the target said that it holds the log.
    held: LogIndex,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &openraft::BasicNode) -> Connection {
        Connection { network: self.clone(), target: NodeId(target), told: None, held: 0 }
    }
}

fn unreachable(why: impl std::fmt::Display) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(why.to_string())))
}

fn failed(status: &Status) -> RPCError<Types> {
    match status.code() {
        Code::Internal | Code::InvalidArgument => {
            RPCError::Network(NetworkError::new(&io::Error::other(status.message().to_owned())))
        }
        _ => unreachable(status.message()),
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(value).map(Bytes::from)
}

fn packed<T: Serialize>(value: &T) -> Result<Bytes, RPCError<Types>> {
    encode(value).map_err(|e| RPCError::Network(NetworkError::new(&io::Error::other(e))))
}

fn unpacked<T: DeserializeOwned>(body: &Bytes) -> Result<T, RPCError<Types>> {
    postcard::from_bytes(body).map_err(|e| RPCError::Network(NetworkError::new(&io::Error::other(e))))
}

impl Connection {
    fn to(&self) -> Option<peer::To> {
        Some(self.network.peers.to(self.target, self.network.group))
    }

    /// Remembers what the other side says that it holds, and tells if it has lost some of it.
    fn follow(&mut self, request: &AppendEntriesRequest<Types>, answer: &AppendEntriesResponse<Types>) {
        let before = request.prev_log_id.map_or(0, |id| id.index);
        match answer {
            AppendEntriesResponse::Success => {
                let end = request.entries.last().map_or(before, |entry| entry.log_id.index);
                self.held = self.held.max(end);
            }
            AppendEntriesResponse::PartialSuccess(end) => {
                self.held = self.held.max(end.map_or(0, |id| id.index));
            }
            AppendEntriesResponse::Conflict if before <= self.held && self.held > 0 => {
                tracing::error!(
                    group = self.network.group.0,
                    node = self.target.0,
                    held = self.held,
                    lacks = before,
                    "a replica has lost entries that it had acknowledged: they are sent again"
                );
                self.held = 0;
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
    }

    fn client(&self) -> Result<peer::raft_client::RaftClient<flotilla_security::Keyed>, RPCError<Types>> {
        self.network.peers.raft(self.target).map_err(unreachable)
    }

    /// Waits for the answer as long as openraft does, and a little less.
    async fn within<T>(
        &self,
        kind: RPCTypes,
        time: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(failed(&status)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action: kind,
                id: self.network.peers.node().0,
                target: self.target.0,
                timeout: time,
            })),
        }
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<Types>,
        time: Duration,
        pre: bool,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let mut client = self.client()?;
        let message = peer::Envelope { to: self.to(), body: packed(&request)? };
        let call = async { if pre { client.pre_vote(message).await } else { client.vote(message).await } };
        let answer = self.within(RPCTypes::Vote, time, call).await?;
        unpacked(&answer.get_ref().body)
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = DurableState;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let head: AppendHead = (request.vote, request.prev_log_id, request.leader_commit);
        let entries = request.entries.iter().map(encode_entry).collect::<Result<Vec<Bytes>, _>>();
        let entries = entries.map_err(|e| RPCError::Network(NetworkError::new(&io::Error::other(e))))?;
        let Network { peers, group, patience, .. } = &self.network;
        let is_news = !entries.is_empty() || self.told != request.leader_commit;
        let patience = if is_news { Duration::ZERO } else { *patience };
        let line = peers.line(self.target, is_news.then_some(*group)).map_err(unreachable)?;
        // Before it is sent: whoever sees it there reads it here from then on.
        let committed = request.leader_commit.map_or(0, |committed| committed.index);
        self.network.told.fetch_max(committed, Ordering::SeqCst);
        let append = Append { group: *group, head: packed(&head)?, entries, patience };
        let answer = self.within(RPCTypes::AppendEntries, option.soft_ttl(), line.append(append)).await?;
        self.told = request.leader_commit;
        let answer = unpacked(&answer)?;
        self.follow(&request, &answer);
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(request, option.soft_ttl(), false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(request, option.soft_ttl(), true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, DurableState>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let told = |status: Status| StreamingError::Unreachable(Unreachable::new(&io::Error::other(status)));
        let bulk = self.network.peers.bulk(self.target).map_err(|why| told(why.into()))?;
        let to = self.network.peers.to(self.target, self.network.group);
        let sending = outbox::send(bulk, to, vote, snapshot.snapshot, self.network.throttle.clone());
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(status) => Err(told(status)),
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = peer::Envelope { to: self.to(), body: packed(&request)? };
        let mut client = self.client()?;
        let answer = self.within(RPCTypes::TransferLeader, option.soft_ttl(), client.transfer(message));
        unpacked(&answer.await?.get_ref().body)
    }
}

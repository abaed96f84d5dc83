//! What other nodes ask besides Raft: to become members, to have a change made, and how this node stands.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::convert::{map_to_wire, node_from_wire};
use flotilla_proto::ids::{META_GROUP, NodeId, PartitionId};
use flotilla_proto::peer::{self, peer_server};
use flotilla_proto::placement::NodeState;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::ring::HASH_VERSION;
use tonic::{Request, Response, Status};

use super::raft::meant;
use super::{digests, facts, time_left, within};
use crate::meta::Meta;
use crate::meta::catalogue::{Change, Outcome};
use crate::partition::registry::Registry;
use crate::peers::Peers;

/// How long the leader is looked for on behalf of a node that joins.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub struct PeerService {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    peers: Arc<Peers>,
}

impl PeerService {
    /// Over this node.
    pub fn new(registry: Arc<Registry>, meta: Arc<Meta>, peers: Arc<Peers>) -> PeerService {
        PeerService { registry, meta, peers }
    }

    async fn introduce(&self, request: peer::JoinRequest) -> Result<peer::JoinResponse, Refusal> {
        let node = request.node.ok_or_else(|| Violation::new("node", "is missing"))?;
        let cluster = self.peers.cluster().to_string();
        if !request.cluster.is_empty() && request.cluster != cluster {
            let why = format!("the folder belongs to cluster {}, and this is {cluster}", request.cluster);
            return Err(Violation::new("cluster", why).into());
        }
        if request.hash_version != u32::from(HASH_VERSION) {
            let why = format!("keys are hashed by version {}, here by {HASH_VERSION}", request.hash_version);
            return Err(Violation::new("hash_version", why).into());
        }
        let mut node = node_from_wire(node)?;
        node.state = NodeState::Active;
        // A stranger that came before the first node has entered itself would be given that one's number.
        if node.id == NodeId(0) && self.meta.map().nodes.is_empty() {
            return Err(Refusal::Unavailable("the cluster's first node is only just starting".to_owned()));
        }
        // Making a change twice leads to the same: the identity is known by then.
        match self.meta.submit(Change::Introduce(node), JOIN_MAX).await? {
            Outcome::Node(id) => {
                // Not the map that this node happens to have: whoever comes back believes that what the map does not name is
                // to go, and would give up replicas that it was given after a map of long ago.
                let placement = Some(map_to_wire(&*self.meta.map_by_now(JOIN_MAX).await?));
                Ok(peer::JoinResponse { id: id.0, cluster, placement })
            }
            other => Err(Refusal::Internal(format!("joining led to {other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn submit(&self, request: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
        let left = time_left(&request);
        let peer::Envelope { to, body } = request.into_inner();
        if meant(&self.peers, to.as_ref())? != META_GROUP {
            return Err(Violation::new("to.group", "only the meta group takes changes").into());
        }
        let body = within(left, self.meta.propose(body)).await?;
        Ok(Response::new(peer::Envelope { to: None, body: body.into() }))
    }

    async fn join(
        &self,
        request: Request<peer::JoinRequest>,
    ) -> Result<Response<peer::JoinResponse>, Status> {
        let left = time_left(&request);
        Ok(Response::new(within(left, self.introduce(request.into_inner())).await?))
    }

    async fn read_indexes(
        &self,
        request: Request<peer::ReadIndexesRequest>,
    ) -> Result<Response<peer::ReadIndexesResponse>, Status> {
        let peer::ReadIndexesRequest { cluster, partitions, .. } = request.into_inner();
        if cluster != self.peers.cluster().to_string() {
            return Err(Refusal::Unavailable("another cluster is meant".to_owned()).into());
        }
        let partitions: Vec<PartitionId> = partitions.into_iter().map(PartitionId).collect();
        let indexes = self.registry.read_indexes(&partitions).await;
        Ok(Response::new(peer::ReadIndexesResponse { indexes }))
    }

    async fn digest(
        &self,
        request: Request<peer::DigestRequest>,
    ) -> Result<Response<peer::DigestResponse>, Status> {
        let left = time_left(&request);
        let request = request.into_inner();
        meant(&self.peers, request.to.as_ref())?;
        Ok(Response::new(within(left, digests::answer(&self.registry, request, left)).await?))
    }

    async fn status(
        &self,
        request: Request<peer::StatusRequest>,
    ) -> Result<Response<peer::StatusResponse>, Status> {
        Ok(Response::new(facts::own(&self.registry, &self.meta, &self.peers, request.get_ref())))
    }
}

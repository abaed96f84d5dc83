//! The other nodes, as this one reaches them.
//!
//! Who is where stands in the placement map; [`Peers::learn`] takes each newer one. A channel is dialled when it is first
//! used, its name resolved at each dial, and dialled anew when the address changes or the connection breaks. Each peer
//! has [`CONNECTIONS`] connections for groups, each with a [`Line`] for appends: the first for votes and heartbeats, which no
//! large append shall hold up, the others for entries; and one more connection for bulk (snapshots, rows that move).
//!
//! Every call carries the cluster and the node that is meant ([`Peers::to`]): a process that took over an address refuses
//! what was not for it.

pub mod line;

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::ids::{META_GROUP, NodeId, PartitionId};
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::peer;
use flotilla_proto::peer::peer_client::PeerClient;
use flotilla_proto::peer::raft_client::RaftClient;
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::shard::shard_client::ShardClient;
use flotilla_security::{Keyed, Trust};
use parking_lot::RwLock;
use tonic::transport::Endpoint;
use uuid::Uuid;

use self::line::{Caller, Line};
use crate::env::net;

/// Connections to each peer for groups.
pub const CONNECTIONS: usize = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A silent connection is asked this often whether it lives, and closed if it does not answer in time. Servers take
/// pings at this rate: see [`KEEPALIVE`].
pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// See the module.
pub struct Peers {
    node: NodeId,
    cluster: Uuid,
    trust: Trust,
    known: RwLock<BTreeMap<NodeId, Known>>,
}

struct Known {
    peer_address: String,
    address: String,
    /// Votes, questions.
    calls: Keyed,
    /// The first for heartbeats.
    lines: Vec<Line>,
    bulk: Keyed,
    data: Keyed,
}

impl Peers {
    /// Nobody known yet. `node` is this one, `trust` what it shows the others.
    pub fn new(node: NodeId, cluster: Uuid, trust: Trust) -> Peers {
        Peers { node, cluster, trust, known: RwLock::default() }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The cluster.
    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// Takes the addresses out of a map. A node that is no longer in it is forgotten.
    pub fn learn(&self, map: &PlacementMap) {
        let mut known = self.known.write();
        known.retain(|id, _| map.node(*id).is_some());
        for node in map.nodes.iter().filter(|node| node.id != self.node) {
            let is_known = known
                .get(&node.id)
                .is_some_and(|k| k.peer_address == node.peer_address && k.address == node.address);
            if is_known || node.peer_address.is_empty() {
                continue;
            }
            match (endpoint(&node.peer_address, &self.trust), endpoint(&node.address, &self.trust)) {
                (Ok(at), Ok(data)) => {
                    let connect = |to| net::connect_lazy(to, &self.trust);
                    let groups: Vec<Keyed> = (0..CONNECTIONS).map(|_| connect(&at)).collect();
                    let to = || self.to(node.id, META_GROUP);
                    let lines = groups.iter().map(|channel| Line::new(channel.clone(), to())).collect();
                    let (peer_address, address) = (node.peer_address.clone(), node.address.clone());
                    let (bulk, data) = (connect(&at), connect(&data));
                    let Some(calls) = groups.into_iter().next() else { continue };
                    known.insert(node.id, Known { peer_address, address, calls, lines, bulk, data });
                }
                (Err(why), _) | (_, Err(why)) => {
                    tracing::warn!(node = node.id.0, %why, "a node's address is none");
                }
            }
        }
    }

    fn with<T>(&self, node: NodeId, take: impl FnOnce(&Known) -> T) -> Result<T, Refusal> {
        let known = self.known.read();
        let known = known.get(&node);
        known.map(take).ok_or_else(|| Refusal::Unavailable(format!("node {node} has no known address")))
    }

    /// Who and what is meant by a call.
    pub fn to(&self, node: NodeId, group: PartitionId) -> peer::To {
        peer::To { cluster: self.cluster.to_string(), node: node.0, group: group.0, from: self.node.0 }
    }

    /// The way to `node` for entries of `group`; for heartbeats without one.
    pub fn line(&self, node: NodeId, group: Option<PartitionId>) -> Result<Caller, Refusal> {
        let at = group.map_or(0, |group| 1 + group.0 as usize % (CONNECTIONS - 1));
        self.with(node, |known| known.lines[at].caller())
    }

    /// The Raft service of `node`, for votes.
    pub fn raft(&self, node: NodeId) -> Result<RaftClient<Keyed>, Refusal> {
        let client = RaftClient::new(self.with(node, |known| known.calls.clone())?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The Raft service of `node`, over the connection for bulk.
    pub fn bulk(&self, node: NodeId) -> Result<RaftClient<Keyed>, Refusal> {
        let client = RaftClient::new(self.with(node, |known| known.bulk.clone())?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The service of `node` for other nodes.
    pub fn peer(&self, node: NodeId) -> Result<PeerClient<Keyed>, Refusal> {
        let client = PeerClient::new(self.with(node, |known| known.calls.clone())?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The shard service of `node`, as routers use it.
    pub fn shard(&self, node: NodeId) -> Result<ShardClient<Keyed>, Refusal> {
        let client = ShardClient::new(self.with(node, |known| known.data.clone())?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The meta service of `node`, as routers use it.
    pub fn meta(&self, node: NodeId) -> Result<MetaClient<Keyed>, Refusal> {
        let client = MetaClient::new(self.with(node, |known| known.data.clone())?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// How to dial `host:port`.
pub fn endpoint(address: &str, trust: &Trust) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(trust.url(address))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::placement::Node;

    use super::*;

    #[tokio::test]
    async fn peers_follow_the_map() {
        let peers = Peers::new(NodeId(1), Uuid::nil(), Trust::default());
        let node = |id, address: &str| {
            let mut node = Node::new(NodeId(id), Uuid::from_u128(id.into()), "127.0.0.1:2");
            node.peer_address = address.to_owned();
            node
        };
        let map = |nodes| PlacementMap { nodes, ..Default::default() };
        peers.learn(&map(vec![node(1, "127.0.0.1:1"), node(2, "127.0.0.1:1"), node(3, "no address")]));
        assert!(peers.peer(NodeId(2)).is_ok());
        assert!(peers.peer(NodeId(1)).is_err() && peers.peer(NodeId(3)).is_err());
        peers.learn(&map(vec![node(3, "127.0.0.1:1")]));
        assert!(peers.peer(NodeId(2)).is_err() && peers.shard(NodeId(3)).is_ok());
    }
}

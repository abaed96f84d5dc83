//! Becoming a member: a new folder asks the seeds for a number; a known one tells where it serves now.

use std::time::Duration;

use flotilla_proto::convert::{map_from_wire, node_to_wire};
use flotilla_proto::ids::NodeId;
use flotilla_proto::peer;
use flotilla_proto::peer::peer_client::PeerClient;
use flotilla_proto::placement::{Node, PlacementMap};
use flotilla_proto::ring::HASH_VERSION;
use flotilla_security::Trust;
use tonic::Code;

use super::ClusterOptions;
use super::folder::Membership;
use crate::env::{clock, net};
use crate::peers::endpoint;
use crate::storage::Fault;

/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(200);

/// What a member answered.
pub(super) struct Joined {
    /// What the folder is bound to from now on.
    pub membership: Membership,
    /// The map then.
    pub map: PlacementMap,
}

/// Why nobody took the node in.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody answered: try again.
    Nobody(String),
    /// It may not.
    Never(String),
}

fn request(node: &Node, bound: Option<Membership>) -> peer::JoinRequest {
    peer::JoinRequest {
        node: Some(node_to_wire(node)),
        cluster: bound.map(|bound| bound.cluster.to_string()).unwrap_or_default(),
        hash_version: u32::from(HASH_VERSION),
    }
}

/// Asks these addresses (`host:port` of members), one after the other, each resolved now.
pub(super) async fn ask(
    addresses: &[String],
    node: &Node,
    bound: Option<Membership>,
    trust: &Trust,
) -> Result<Joined, Refused> {
    let mut last = "no seed was given".to_owned();
    for address in addresses {
        let endpoint = match endpoint(address, trust) {
            Ok(endpoint) => endpoint,
            Err(why) => return Err(Refused::Never(format!("seed `{address}` is not host:port: {why}"))),
        };
        let call = async {
            let mut client = PeerClient::new(net::connect_lazy(&endpoint, trust));
            let mut message = tonic::Request::new(request(node, bound));
            message.set_timeout(ANSWER_MAX);
            client.join(message).await
        };
        match tokio::time::timeout(ANSWER_MAX, call).await {
            Ok(Ok(answer)) => return joined(answer.into_inner()).map_err(Refused::Never),
            Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                return Err(Refused::Never(format!("{address}: {}", status.message())));
            }
            Ok(Err(status)) => last = format!("{address}: {}", status.message()),
            Err(_) => last = format!("{address}: no answer"),
        }
    }
    Err(Refused::Nobody(last))
}

fn joined(answer: peer::JoinResponse) -> Result<Joined, String> {
    let cluster = answer.cluster.parse().map_err(|_| format!("`{}` is not a cluster", answer.cluster))?;
    let map = map_from_wire(answer.placement.unwrap_or_default()).map_err(|why| why.to_string())?;
    Ok(Joined { membership: Membership { cluster, id: NodeId(answer.id) }, map })
}

/// Asks until a member answers, for as long as a new node looks. None: nobody did, and it is to begin a cluster.
pub(super) async fn ask_until(node: &Node, cluster: &ClusterOptions) -> Result<Option<Joined>, Fault> {
    let until = clock::now() + cluster.begins_after.unwrap_or(cluster.join_within);
    let mut is_told = false;
    loop {
        match ask(&cluster.seeds, node, None, &cluster.trust).await {
            Ok(joined) => return Ok(Some(joined)),
            Err(Refused::Never(why)) => return Err(refused(why)),
            Err(Refused::Nobody(why)) if clock::now() >= until && cluster.begins_after.is_some() => {
                tracing::warn!(why, "no other member answers: this node begins a cluster");
                return Ok(None);
            }
            Err(Refused::Nobody(why)) if clock::now() >= until => {
                return Err(refused(format!("no member took this node in: {why}")));
            }
            Err(Refused::Nobody(why)) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::info!(why, "looking for a member of the cluster");
                }
                clock::sleep(PAUSE).await;
            }
        }
    }
}

pub(super) fn refused(reason: String) -> Fault {
    Fault::Io { file: "cluster".into(), reason, is_full: false }
}

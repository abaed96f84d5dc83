//! The calls of other replicas: found by group, and refused if another node or cluster was meant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{META_GROUP, NodeId, PartitionId};
use flotilla_proto::peer::{self, raft_server};
use flotilla_proto::refusal::Refusal;
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::appends::{self, Answers};
use crate::env::task;
use crate::meta::Meta;
use crate::partition::registry::Registry;
use crate::peers::Peers;
use crate::raft::door::{self, Door, Offer};
use crate::raft::inbox::Inbox;

/// Snapshots taken in at one time.
const INBOXES_MAX: usize = 4;
/// A sender that says nothing for this long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Whether a call was meant for this node; the group that it is for.
pub(super) fn meant(peers: &Peers, to: Option<&peer::To>) -> Result<PartitionId, Refusal> {
    let to = to.ok_or_else(|| flotilla_proto::refusal::Violation::new("to", "is missing"))?;
    if to.cluster != peers.cluster().to_string() || to.node != peers.node().0 {
        return Err(Refusal::Unavailable(format!(
            "this is node {} of cluster {}, not node {} of cluster {}",
            peers.node(),
            peers.cluster(),
            to.node,
            to.cluster
        )));
    }
    Ok(PartitionId(to.group))
}

/// The groups of this node, as others call them.
pub(super) struct Doors {
    pub registry: Arc<Registry>,
    pub meta: Arc<Meta>,
    pub peers: Arc<Peers>,
}

impl Doors {
    pub fn of(&self, group: PartitionId) -> Result<Arc<dyn Door>, Refusal> {
        match group {
            META_GROUP => Ok(self.meta.door()),
            group => self.registry.door(group),
        }
    }
}

/// See the module.
pub struct RaftService {
    doors: Arc<Doors>,
    permits: Semaphore,
    offered: parking_lot::Mutex<HashMap<PartitionId, Offered>>,
}

/// A transfer that was agreed upon.
struct Offered {
    inbox: Inbox,
    head: Bytes,
}

impl RaftService {
    /// Over this node's groups.
    pub fn new(registry: Arc<Registry>, meta: Arc<Meta>, peers: Arc<Peers>) -> RaftService {
        let permits = Semaphore::new(INBOXES_MAX);
        let doors = Arc::new(Doors { registry, meta, peers });
        RaftService { doors, permits, offered: parking_lot::Mutex::default() }
    }

    fn door(&self, to: Option<&peer::To>) -> Result<(PartitionId, Arc<dyn Door>), Refusal> {
        let group = meant(&self.doors.peers, to)?;
        Ok((group, self.doors.of(group)?))
    }

    fn folder(&self, group: PartitionId) -> std::path::PathBuf {
        let Doors { registry, meta, .. } = &*self.doors;
        if group == META_GROUP { meta.folder().to_owned() } else { registry.folder_of(group) }
    }

    /// Takes the pieces of an agreed transfer and puts the state in place.
    async fn receive(&self, mut pieces: Streaming<peer::SnapshotPiece>) -> Result<Bytes, Status> {
        let _permit = self
            .permits
            .try_acquire()
            .map_err(|_| Refusal::Unavailable(format!("{INBOXES_MAX} snapshots are coming in already")))?;
        let first = next(&mut pieces).await?.ok_or_else(|| Status::invalid_argument("no piece"))?;
        let (group, _) = self.door(first.to.as_ref())?;
        let offered = self.offered.lock().remove(&group);
        let Offered { mut inbox, head } =
            offered.ok_or_else(|| Refusal::Unavailable("nothing was offered".to_owned()))?;
        let mut piece = Some(first);
        while let Some(arrived) = piece {
            let writing = task::spawn_cpu(move || {
                let written = inbox.write(&arrived);
                (inbox, written)
            });
            let (back, written) = writing.await.map_err(|e| Status::internal(e.to_string()))?;
            inbox = back;
            written.map_err(|e| Status::internal(e.to_string()))?;
            piece = next(&mut pieces).await?;
        }
        let finished = task::spawn_cpu(move || inbox.finish()).await;
        finished
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::internal(e.to_string()))?;
        let end = door::end_of_offer(&head)?;
        tracing::info!(group = group.0, end, "a snapshot arrived: the replica starts over from it");
        // As a task of its own: a sender that gives up ends this call, and the replica would stay half opened.
        let doors = self.doors.clone();
        let installing = task::spawn(async move {
            if group == META_GROUP {
                doors.meta.install().await.map_err(|why| Refusal::Internal(why.to_string()))
            } else {
                doors.registry.install(group).await
            }
        });
        installing.await.map_err(|lost| Status::internal(lost.to_string()))??;
        Ok(door::vote_of_offer(&head)?)
    }
}

async fn next(pieces: &mut Streaming<peer::SnapshotPiece>) -> Result<Option<peer::SnapshotPiece>, Status> {
    match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
        Ok(piece) => piece.transpose(),
        Err(_) => Err(Status::deadline_exceeded("the sender of the snapshot is silent")),
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendStream = Answers;

    async fn append(
        &self,
        request: Request<Streaming<peer::Appends>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        Ok(Response::new(appends::take(self.doors.clone(), request.into_inner())))
    }

    async fn vote(&self, request: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
        let peer::Envelope { to, body } = request.into_inner();
        let (_, door) = self.door(to.as_ref())?;
        Ok(Response::new(peer::Envelope { to: None, body: door.vote(body, false).await? }))
    }

    async fn pre_vote(&self, request: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
        let peer::Envelope { to, body } = request.into_inner();
        let (_, door) = self.door(to.as_ref())?;
        Ok(Response::new(peer::Envelope { to: None, body: door.vote(body, true).await? }))
    }

    async fn transfer(&self, request: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
        let peer::Envelope { to, body } = request.into_inner();
        let (_, door) = self.door(to.as_ref())?;
        Ok(Response::new(peer::Envelope { to: None, body: door.transfer(body).await? }))
    }

    async fn offer(
        &self,
        request: Request<peer::SnapshotOffer>,
    ) -> Result<Response<peer::SnapshotWanted>, Status> {
        let peer::SnapshotOffer { to, head, files } = request.into_inner();
        let (group, door) = self.door(to.as_ref())?;
        match door.consider(&head)? {
            Offer::Take(_) => {}
            Offer::Held(refused) | Offer::Refused(refused) => {
                return Ok(Response::new(peer::SnapshotWanted { from: Vec::new(), refused }));
            }
        }
        let folder = self.folder(group);
        let opened = task::spawn_cpu(move || Inbox::open(&folder, files)).await;
        let opened = opened.map_err(|e| Status::internal(e.to_string()))?;
        let (inbox, from) = opened.map_err(|e| Status::internal(e.to_string()))?;
        self.offered.lock().insert(group, Offered { inbox, head });
        Ok(Response::new(peer::SnapshotWanted { from, refused: Bytes::new() }))
    }

    async fn leave(
        &self,
        request: Request<peer::LeaveRequest>,
    ) -> Result<Response<peer::LeaveResponse>, Status> {
        let peer::LeaveRequest { to } = request.into_inner();
        let from = NodeId(to.as_ref().map_or(0, |to| to.from));
        let (_, door) = self.door(to.as_ref())?;
        Ok(Response::new(peer::LeaveResponse { is_out: door.is_out(from).await? }))
    }

    async fn send(
        &self,
        request: Request<Streaming<peer::SnapshotPiece>>,
    ) -> Result<Response<peer::SnapshotInstalled>, Status> {
        let body = self.receive(request.into_inner()).await?;
        Ok(Response::new(peer::SnapshotInstalled { body }))
    }
}

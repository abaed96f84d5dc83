//! A replica at the two ends of a move of slots: as the one that gives, and as the one that takes, here or on another node.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{CollectionId, Epoch, LogIndex, NodeId, PartitionId};
use flotilla_proto::placement::CollectionPlacement;
use flotilla_proto::refusal::{Advice, Refusal, Violation, advice};
use flotilla_proto::shard;
use tonic::Status;

use super::Replica;
use super::registry::Registry;
use crate::machine::command::{Body, Command};
use crate::machine::moves::{Cursor, Import, Ledger, Step, StepRejection};
use crate::peers::Peers;
use crate::storage::View;
use crate::worker::slots::{Holder, Stepped, Taker};

/// How long the taker may take for one step.
const STEP_WITHIN: Duration = Duration::from_secs(30);

/// What the taker answers: how far it is.
type Answer = Result<Cursor, StepRejection>;

impl Holder for Replica {
    fn id(&self) -> PartitionId {
        self.id
    }

    async fn step(&self, step: Step) -> Stepped<LogIndex> {
        Replica::step(self, step).await
    }

    fn state(&self) -> View {
        self.store.view()
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }
}

impl Replica {
    /// Takes a step of an import, as another node sends it, and answers as that node reads it.
    pub async fn import(&self, command: &[u8]) -> Result<Vec<u8>, Refusal> {
        let wrong = |why: String| Violation::new("command", why);
        let command = Command::decode(command).map_err(|why| wrong(format!("{why:?}")))?;
        let step = match command.body {
            Body::Move(step @ (Step::BeginImport { .. } | Step::Import(_) | Step::ImportTold(..))) => step,
            _ => return Err(wrong("is no step of an import".to_owned()).into()),
        };
        if command.collection != self.collection {
            return Err(Refusal::NotFound("collection", command.collection.to_string()));
        }
        let answer = self.take(step).await?;
        postcard::to_stdvec(&answer).map_err(|e| Refusal::Internal(e.to_string()))
    }

    async fn take(&self, step: Step) -> Stepped<Cursor> {
        // A flood of imports waits for the background as any other.
        self.has_room().await?;
        let stepped = Replica::step(self, step).await?;
        let moves = self.ledger.moves();
        let cursor = moves.incoming.as_ref().map(|incoming| incoming.cursor.clone());
        Ok(stepped.and_then(|_| cursor.ok_or(StepRejection::Ended)))
    }
}

/// The partition that gets slots, wherever its leader is.
pub struct Neighbour {
    registry: Arc<Registry>,
    peers: Arc<Peers>,
    collection: CollectionId,
    epoch: Epoch,
    id: PartitionId,
    replicas: Vec<NodeId>,
}

impl Neighbour {
    /// The partition `id` of a collection, reached through `peers` where it is not on this node.
    pub fn new(
        registry: Arc<Registry>,
        peers: Arc<Peers>,
        placement: &CollectionPlacement,
        id: PartitionId,
    ) -> Neighbour {
        let replicas = placement.partition(id).map(|partition| partition.replicas.clone());
        let (collection, epoch) = (placement.id, placement.epoch);
        Neighbour { registry, peers, collection, epoch, id, replicas: replicas.unwrap_or_default() }
    }

    /// The step, by whichever replica leads.
    async fn send(&self, step: Step) -> Stepped<Cursor> {
        let command = Command { collection: self.collection, request: None, body: Body::Move(step) };
        let command = command.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        let mut left = self.replicas.clone();
        let mut last = Refusal::Unavailable(format!("partition {} has no replica", self.id));
        // Leaders change; the keeper's next attempt asks all of them again.
        while let Some(node) = left.pop() {
            let leader = match self.send_to(node, &command).await {
                Ok(answer) => {
                    let answer: Result<Answer, _> = postcard::from_bytes(&answer);
                    return answer.map_err(|e| Refusal::Internal(e.to_string()));
                }
                Err((refusal, leader)) => {
                    last = refusal;
                    leader.map(NodeId)
                }
            };
            if let Some(at) = left.iter().position(|other| Some(*other) == leader) {
                let leader = left.remove(at);
                left.push(leader);
            }
        }
        Err(last)
    }

    /// The answer of one replica, or its refusal and the leader that it names.
    async fn send_to(&self, node: NodeId, command: &[u8]) -> Result<Vec<u8>, (Refusal, Option<u64>)> {
        let here = self.registry.replica(self.id, self.epoch, STEP_WITHIN).await;
        if let Some(replica) =
            here.map_err(|refusal| (refusal, None))?.filter(|_| node == self.registry.node())
        {
            return replica.import(command).await.map_err(|refusal| match refusal {
                Refusal::NotLeader { leader, .. } => (refusal, leader),
                refusal => (refusal, None),
            });
        }
        let mut shard = self.peers.shard(node).map_err(|refusal| (refusal, None))?;
        let target = shard::Target {
            collection_id: self.collection.to_string(),
            partition: self.id.0,
            epoch: self.epoch.0,
            fresh: None,
        };
        let mut request =
            tonic::Request::new(shard::ImportRequest { target: Some(target), command: command.to_vec() });
        request.set_timeout(STEP_WITHIN);
        shard.import(request).await.map(|answer| answer.into_inner().answer).map_err(|status| told(&status))
    }
}

fn told(status: &Status) -> (Refusal, Option<u64>) {
    let leader = match advice(status) {
        Advice::GoTo(leader) => leader,
        _ => None,
    };
    (Refusal::Unavailable(status.message().to_owned()), leader)
}

impl Taker for Neighbour {
    async fn begin(&self, step: Step) -> Stepped<Cursor> {
        self.send(step).await
    }

    async fn import(&self, import: Import) -> Stepped<()> {
        Ok(self.send(import.into_step()).await?.map(drop))
    }
}

//! Whether the replicas of a partition are equal, and what happens to one that is not.
//!
//! ```text
//! leader: propose Digest ──> log index i ──> own digest at i
//!                                        └─> every other holder: its digest at i, once it has applied i
//! ```
//!
//! The leader of each partition asks at a low rate ([`Options::every`]) for the rolling digests, which cost nothing; a
//! deep digest reads every record and is for who asks for it. Digests are compared at one log index only, so a replica
//! that lags is late and never wrong; one that does not answer is not judged.
//!
//! **Who is wrong.** The minority. Where no digest has a majority, whoever differs from the leader: it answered the
//! writes. A verdict counts if a second question at a newer log index finds it again.
//!
//! **What happens.** A divergent replica is told, and quarantines itself; the metric counts it; and the hook given to
//! [`Equality`] asks for the replica to be rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::peer;
use flotilla_proto::refusal::Refusal;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};

use super::Replica;
use super::registry::Registry;
use crate::env::clock;
use crate::machine::Reply;
use crate::machine::command::{Body, Command};
use crate::peers::Peers;
use crate::storage::digest::{Digest, Walk};

/// Bytes of records that a deep digest reads under one read permit.
const PIECE_BYTES: usize = 4 << 20;
/// How long the background waits for a lagging replica before it goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least pause between two partitions, however many there are.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// How replicas are compared in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often each partition's replicas are compared (default 60 s). Zero: never.
    pub every: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { every: Duration::from_secs(60) }
    }
}

/// Called with a divergent replica: (partition, node). Must be quick.
pub type OnDivergent = Arc<dyn Fn(PartitionId, NodeId) + Send + Sync>;

/// What is asked of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The partition.
    pub partition: PartitionId,
    /// At which log index.
    pub index: LogIndex,
    /// Over everything that is stored.
    pub deep: bool,
    /// The majority's digest there: the holder that has another one quarantines itself.
    pub majority: Option<String>,
    /// How long it may take.
    pub within: Duration,
}

/// The way to the other holders.
pub trait Ask: Send + Sync {
    /// The digest of `node`'s replica.
    fn ask(&self, node: NodeId, question: Question) -> BoxFuture<'_, Result<String, Refusal>>;
}

impl Ask for Peers {
    fn ask(&self, node: NodeId, question: Question) -> BoxFuture<'_, Result<String, Refusal>> {
        async move {
            let mut request = tonic::Request::new(peer::DigestRequest {
                to: Some(self.to(node, question.partition)),
                log_index: question.index,
                deep: question.deep,
                majority: question.majority.unwrap_or_default(),
            });
            request.set_timeout(question.within);
            let answer = self.peer(node)?.digest(request).await;
            let answer = answer.map_err(|status| Refusal::Unavailable(status.message().to_owned()))?;
            Ok(answer.into_inner().digest)
        }
        .boxed()
    }
}

/// What the holders of a partition say at one log index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Where they were asked.
    pub index: LogIndex,
    /// The leader, who asked.
    pub leader: NodeId,
    /// Each holder's digest, or why there is none.
    pub digests: BTreeMap<NodeId, Result<String, String>>,
}

impl Comparison {
    /// The digest that counts: of the majority of those who answered, else the leader's.
    pub fn majority(&self) -> Option<&str> {
        let given = || self.digests.values().filter_map(|digest| digest.as_deref().ok());
        let votes = |digest: &str| given().filter(|other| *other == digest).count();
        let most =
            given().max_by_key(|digest| votes(digest)).filter(|digest| votes(digest) * 2 > given().count());
        most.or_else(|| self.digests.get(&self.leader)?.as_deref().ok())
    }

    /// Holders whose digest is another one.
    pub fn divergent(&self) -> Vec<NodeId> {
        let Some(majority) = self.majority() else { return Vec::new() };
        let differs =
            |digest: &Result<String, String>| digest.as_deref().is_ok_and(|digest| digest != majority);
        self.digests.iter().filter(|(_, digest)| differs(digest)).map(|(node, _)| *node).collect()
    }

    /// Whether every holder answered, and all alike.
    pub fn is_equal(&self) -> bool {
        self.digests.values().all(Result::is_ok) && self.divergent().is_empty()
    }
}

impl Replica {
    /// Asks every holder for its digest at one new log index. By the leader only.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`]; or the question could not be proposed. What a holder says against it stands in the answer.
    pub async fn digest_now(&self, deep: bool, within: Duration) -> Result<Comparison, Refusal> {
        self.digest_by(&*self.peers, self.group.holders(), deep, within).await
    }

    pub(super) async fn digest_by(
        &self,
        ask: &dyn Ask,
        holders: Vec<NodeId>,
        deep: bool,
        within: Duration,
    ) -> Result<Comparison, Refusal> {
        let since = clock::now();
        let index = self.propose_digest(deep).await?;
        let question = Question { partition: self.id, index, deep, majority: None, within };
        let answer = |node: NodeId| {
            let left = within.saturating_sub(since.elapsed());
            let question = Question { within: left, ..question.clone() };
            async move {
                let digest = async {
                    if node == self.group.node() {
                        return Ok(self.digest_at(index, deep).await?.to_string());
                    }
                    ask.ask(node, question).await
                };
                let late =
                    |_| Err(Refusal::DeadlineExceeded(format!("no digest within {} ms", within.as_millis())));
                let digest = tokio::time::timeout(left, digest).await.unwrap_or_else(late);
                (node, digest.map_err(|why| why.to_string()))
            }
        };
        let digests = futures::future::join_all(holders.into_iter().map(answer)).await;
        Ok(Comparison { index, leader: self.group.node(), digests: digests.into_iter().collect() })
    }

    async fn propose_digest(&self, deep: bool) -> Result<LogIndex, Refusal> {
        self.serves()?;
        let command = Command { collection: self.collection, request: None, body: Body::Digest { deep } };
        let command = command.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        match self.group.propose(command).await? {
            Reply::Written { log_index, .. } => Ok(log_index),
            Reply::Rejected(rejection) => Err(self.rejected(rejection)),
            other => Err(Refusal::Internal(format!("partition {} answered {other:?}", self.id))),
        }
    }

    /// This replica's digest at a log index that a leader asked at lately. Waits until it is applied here.
    ///
    /// # Errors
    /// [`Refusal::Aborted`] if the digest there is not at hand (any more): ask again at a newer index.
    pub async fn digest_at(&self, index: LogIndex, deep: bool) -> Result<Digest, Refusal> {
        self.serves()?;
        self.group.wait_applied(index).await?;
        let gone = || {
            Refusal::Aborted(format!(
                "partition {}: the digest at log index {index} is not at hand; ask anew",
                self.id
            ))
        };
        if !deep {
            return self.digests.rolling(index).ok_or_else(gone);
        }
        let mut walk = Walk::new(self.digests.view(index).ok_or_else(gone)?);
        loop {
            let (back, digest) = self
                .compute(move |is_cancelled| {
                    let digest = walk.step(PIECE_BYTES, is_cancelled)?;
                    Ok((walk, digest))
                })
                .await?;
            match digest {
                Some(digest) => return Ok(digest),
                None => walk = back,
            }
        }
    }

    /// As [`Replica::digest_at`]; and if the digest is not the majority's, this replica is quarantined.
    pub async fn digest_or_quarantine(
        &self,
        index: LogIndex,
        deep: bool,
        majority: &str,
    ) -> Result<Digest, Refusal> {
        let digest = self.digest_at(index, deep).await?;
        if !majority.is_empty() && digest.to_string() != majority {
            self.quarantine(&format!(
                "it differs from the other replicas at log index {index}: its digest is {digest}, theirs {majority}"
            ));
        }
        Ok(digest)
    }
}

/// Compares the replicas of the partitions that this node leads, in the background.
pub struct Equality {
    node: NodeId,
    registry: Arc<Registry>,
    ask: Arc<dyn Ask>,
    options: Options,
    on_divergent: OnDivergent,
    divergences: Option<IntCounterVec>,
    /// Partition -> the log index at which its replicas were equal last.
    equal: Mutex<BTreeMap<PartitionId, LogIndex>>,
}

impl Equality {
    /// Over this node's replicas. `on_divergent` is told of each replica that is to be rebuilt.
    pub fn new(
        node: NodeId,
        registry: Arc<Registry>,
        ask: Arc<dyn Ask>,
        options: Options,
        on_divergent: OnDivergent,
    ) -> Equality {
        let help =
            "replicas found to differ from the others of their partition, by the leader that found them";
        let opts = Opts::new("flotilla_replica_divergence_total", help);
        let divergences = IntCounterVec::new(opts, &["partition"]).ok();
        Equality { node, registry, ask, options, on_divergent, divergences, equal: Mutex::default() }
    }

    /// The counter of divergent replicas, by partition.
    pub fn divergences(&self) -> Option<IntCounterVec> {
        self.divergences.clone()
    }

    /// Compares one partition after the other, spread over [`Options::every`], for ever.
    pub async fn run(self: Arc<Equality>) {
        if self.options.every.is_zero() {
            return;
        }
        loop {
            let replicas = self.registry.serving();
            let share = self.options.every / u32::try_from(replicas.len().max(1)).unwrap_or(u32::MAX);
            if replicas.is_empty() {
                clock::sleep(share).await;
            }
            for replica in replicas {
                clock::sleep(share.max(PAUSE_MIN)).await;
                if let Err(why) = self.look_at(&replica, replica.group.holders()).await {
                    tracing::debug!(partition = replica.id.0, %why, "replicas were not compared");
                }
            }
        }
    }

    /// Compares the replicas of one partition if this node leads it and something was applied since they were equal.
    pub(crate) async fn look_at(&self, replica: &Replica, holders: Vec<NodeId>) -> Result<(), Refusal> {
        let is_known = self.equal.lock().get(&replica.id).is_some_and(|at| *at == replica.store.view().at);
        if holders.len() < 2 || is_known || !replica.group.leads() {
            return Ok(());
        }
        let once = replica.digest_by(&*self.ask, holders.clone(), false, PATIENCE).await?;
        if once.is_equal() {
            self.equal.lock().insert(replica.id, once.index);
        }
        let suspects = once.divergent();
        if suspects.is_empty() {
            return Ok(());
        }
        let twice = replica.digest_by(&*self.ask, holders, false, PATIENCE).await?;
        let majority = twice.majority().unwrap_or_default().to_owned();
        for node in twice.divergent().into_iter().filter(|node| suspects.contains(node)) {
            self.diverged(replica, node, twice.index, &majority).await;
        }
        Ok(())
    }

    async fn diverged(&self, replica: &Replica, node: NodeId, index: LogIndex, majority: &str) {
        let partition = replica.id;
        tracing::error!(
            partition = partition.0,
            node = node.0,
            index,
            "a replica differs from the others: it is to be rebuilt"
        );
        if let Some(divergences) = &self.divergences {
            divergences.with_label_values(&[&partition.to_string()]).inc();
        }
        let told = if node == self.node {
            replica.digest_or_quarantine(index, false, majority).await.map(drop)
        } else {
            let majority = Some(majority.to_owned());
            let question = Question { partition, index, deep: false, majority, within: PATIENCE };
            self.ask.ask(node, question).await.map(drop)
        };
        if let Err(why) = told {
            tracing::warn!(partition = partition.0, node = node.0, %why, "a divergent replica was not told");
        }
        (self.on_divergent)(partition, node);
    }
}

#[cfg(test)]
mod tests;

//! One call to one partition: to the right node, in time, again where that helps; and many such calls at once.
//!
//! What a refusal means is [`refusal::advice`]'s to say. Here it is acted upon, inside the request's deadline:
//! - a stale view: the newer placement is learnt and the whole request starts over ([`Miss::Stale`]);
//! - not the leader: the named leader is asked, else the next replica, else all again after a pause;
//! - unavailable, or the connection broke: likewise, if sending twice is harmless ([`Resend`]);
//! - anything else is the caller's to know.
//!
//! The node gets the time left less a margin as its own deadline. Calls run inside the caller's future: dropping it
//! cancels them.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::refusal::{self, Advice, Refusal};
use flotilla_proto::shard;
use flotilla_proto::shard::meta_client::MetaClient;
use flotilla_proto::shard::shard_client::ShardClient;
use flotilla_proto::v1::{Coverage, PartitionIndex};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::RwLock;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::admission::{Deadline, exceeded};
use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::placement::{Placement, View};
use crate::pool::Pool;

const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Calls of one request under way at once, at most.
const WIDTH: usize = 64;
/// Leaders remembered, at most.
const LEADERS_MAX: usize = 1 << 16;

/// Why a call gave no answer.
#[derive(Debug)]
pub enum Miss {
    /// The view is stale: start over with a newer one.
    Stale,
    /// Tell the caller.
    Failed(Status),
}

impl From<Status> for Miss {
    fn from(status: Status) -> Miss {
        Miss::Failed(status)
    }
}

/// Whether sending a call a second time is harmless when the first one's fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Reads, and writes that carry a request id.
    Freely,
    /// Only if the first one was refused, or never left.
    IfRefused,
}

/// What a call carries to the node.
#[derive(Clone, Debug)]
pub struct Call {
    /// The partition and the caller's epoch.
    pub target: shard::Target,
    timeout: Duration,
}

impl Call {
    /// `message` with the node's deadline.
    pub fn request<M>(&self, message: M) -> tonic::Request<M> {
        with_timeout(message, self.timeout)
    }

    /// The target, for the message.
    pub fn target(&self) -> Option<shard::Target> {
        Some(self.target.clone())
    }
}

fn with_timeout<M>(message: M, timeout: Duration) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Calls partitions.
#[derive(Debug)]
pub struct Fanout {
    pool: Arc<Pool>,
    placement: Arc<Placement>,
    metrics: Metrics,
    leaders: RwLock<HashMap<PartitionId, NodeId>>,
}

impl Fanout {
    /// Calls by `placement` over the channels of `pool`.
    pub fn new(pool: Arc<Pool>, placement: Arc<Placement>, metrics: Metrics) -> Fanout {
        Fanout { pool, placement, metrics, leaders: RwLock::default() }
    }

    /// One call to `partition`, sent by `send` as often as advice, `resend` and the deadline allow.
    pub async fn call<T, F>(
        &self,
        view: &View,
        partition: PartitionId,
        deadline: Deadline,
        resend: Resend,
        send: impl Fn(ShardClient<Channel>, Call) -> F,
    ) -> Result<T, Miss>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut route = Route::new(view.replicas(partition), self.leader(partition));
        loop {
            let status = match self.shard(view, partition, route.node) {
                Ok(client) => {
                    let call = Call { target: view.target(partition), timeout: deadline.for_next_hop() };
                    match send(client, call).await {
                        Ok(answer) => {
                            self.remember(partition, route.node);
                            return Ok(answer.into_inner());
                        }
                        Err(status) => status,
                    }
                }
                Err(status) => status,
            };
            match next(&status, resend) {
                Advice::TellCaller => return Err(Miss::Failed(told(status))),
                Advice::Reroute(newer) => {
                    if let Some(newer) = newer {
                        self.placement.learn(*newer)?;
                    }
                    self.metrics.retries.inc();
                    return Err(Miss::Stale);
                }
                Advice::GoTo(node) => self.pause(route.go_to(node.map(NodeId)), deadline, &status).await?,
            }
        }
    }

    fn shard(
        &self,
        view: &View,
        partition: PartitionId,
        node: Option<NodeId>,
    ) -> Result<ShardClient<Channel>, Status> {
        let address = node.and_then(|node| view.address(node));
        let unknown =
            || Refusal::Unavailable(format!("partition {partition} has no replica of known address"));
        self.pool.shard(address.ok_or_else(unknown)?)
    }

    fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        self.leaders.read().get(&partition).copied()
    }

    fn remember(&self, partition: PartitionId, node: Option<NodeId>) {
        let Some(node) = node else { return };
        if self.leader(partition) == Some(node) {
            return;
        }
        let mut leaders = self.leaders.write();
        if leaders.len() >= LEADERS_MAX {
            leaders.clear();
        }
        leaders.insert(partition, node);
    }

    /// Waits before the next try; gives up if the deadline comes first.
    async fn pause(&self, pause: Duration, deadline: Deadline, cause: &Status) -> Result<(), Status> {
        if deadline.left() <= pause {
            return Err(exceeded(&format!("the time was up; the last refusal was: {}", cause.message())));
        }
        self.metrics.retries.inc();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// One call to the meta group, by whichever node leads it. A call whose fate is unknown is not sent again.
    pub async fn meta<T, F, M>(
        &self,
        deadline: Deadline,
        message: M,
        send: impl Fn(MetaClient<Channel>, tonic::Request<M>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
        M: Clone,
    {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let mut addresses = self.placement.addresses();
        addresses.reverse();
        loop {
            let address = addresses.pop().ok_or_else(|| Status::unavailable("no node is known"))?;
            let client = self.pool.meta(&address)?;
            let status = match send(client, with_timeout(message.clone(), deadline.for_next_hop())).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let Advice::GoTo(leader) = next(&status, Resend::IfRefused) else { return Err(told(status)) };
            let mut pause = Duration::ZERO;
            if addresses.is_empty() {
                pause = backoff.pause();
                addresses = self.placement.addresses();
                addresses.reverse();
            }
            self.pause(pause, deadline, &status).await?;
            let map = self.placement.map();
            if let Some(node) = leader.and_then(|id| map.as_ref()?.node(NodeId(id))) {
                addresses.retain(|other| *other != node.address);
                addresses.push(node.address.clone());
            }
        }
    }
}

/// Runs the calls, [`WIDTH`] at once, and gives their answers in the order of the calls; the first miss ends it.
pub async fn gather<T>(calls: Vec<BoxFuture<'_, Result<T, Miss>>>) -> Result<Vec<T>, Miss> {
    let mut answers: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    let mut running = Running::new(calls);
    while let Some((n, end)) = running.next().await {
        answers[n] = Some(end?);
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Runs the calls, [`WIDTH`] at once, to the end of each, and gives how each ended, in the order of the calls.
pub async fn settle<R>(calls: Vec<BoxFuture<'_, R>>) -> Vec<R> {
    let mut ends: Vec<Option<R>> = calls.iter().map(|_| None).collect();
    let mut running = Running::new(calls);
    while let Some((n, end)) = running.next().await {
        ends[n] = Some(end);
    }
    ends.into_iter().flatten().collect()
}

/// Calls under way, [`WIDTH`] at once.
struct Running<'a, R> {
    rest: std::iter::Enumerate<std::vec::IntoIter<BoxFuture<'a, R>>>,
    started: FuturesUnordered<BoxFuture<'a, (usize, R)>>,
}

impl<'a, R: 'a> Running<'a, R> {
    fn new(calls: Vec<BoxFuture<'a, R>>) -> Running<'a, R> {
        Running { rest: calls.into_iter().enumerate(), started: FuturesUnordered::new() }
    }

    /// The next call to end, with its number.
    async fn next(&mut self) -> Option<(usize, R)> {
        while self.started.len() < WIDTH
            && let Some((n, call)) = self.rest.next()
        {
            self.started.push(Box::pin(async move { (n, call.await) }));
        }
        self.started.next().await
    }
}

/// The coverage of an answer made of these partitions at these log indexes.
pub fn coverage(asked: usize, indexes: impl IntoIterator<Item = (PartitionId, u64)>) -> Coverage {
    let index = |(partition, log_index): (PartitionId, u64)| PartitionIndex {
        partition: partition.0,
        log_index,
        node: 0,
    };
    let mut indexes: Vec<PartitionIndex> = indexes.into_iter().map(index).collect();
    indexes.sort_unstable_by_key(|i| i.partition);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Coverage {
        partitions_asked: count(asked),
        partitions_answered: count(indexes.len()),
        indexes,
        missing: Vec::new(),
    }
}

/// Which replica is asked next.
struct Route<'a> {
    replicas: &'a [NodeId],
    node: Option<NodeId>,
    tried: Vec<NodeId>,
    backoff: Backoff,
}

impl<'a> Route<'a> {
    fn new(replicas: &'a [NodeId], leader: Option<NodeId>) -> Route<'a> {
        let leader = leader.filter(|node| replicas.contains(node)).or(replicas.first().copied());
        Route { replicas, node: leader, tried: Vec::new(), backoff: Backoff::new(PAUSE.0, PAUSE.1) }
    }

    /// Turns to `named`, else to a replica not tried yet, else starts over; returns the pause before it.
    fn go_to(&mut self, named: Option<NodeId>) -> Duration {
        self.tried.extend(self.node);
        let is_new = |node: &NodeId| !self.tried.contains(node);
        let untried = named.filter(is_new).or_else(|| self.replicas.iter().copied().find(is_new));
        if untried.is_some() {
            self.node = untried;
            return Duration::ZERO;
        }
        self.tried.clear();
        self.node = named.or(self.replicas.first().copied());
        self.backoff.pause()
    }
}

/// The advice of a status, as far as `resend` allows to follow it.
fn next(status: &Status, resend: Resend) -> Advice {
    let advice = match refusal::advice(status) {
        Advice::TellCaller if is_broken_connection(status) => Advice::GoTo(None),
        advice => advice,
    };
    let is_refused = status.code() == Code::FailedPrecondition || never_left(status);
    match advice {
        Advice::GoTo(_) if resend == Resend::IfRefused && !is_refused => Advice::TellCaller,
        advice => advice,
    }
}

/// Whether the status was made here, of a broken connection, rather than sent by the node.
fn is_broken_connection(status: &Status) -> bool {
    status.source().is_some()
        && !is_timeout(status)
        && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
}

/// tonic's word for a timeout, at either end.
fn is_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// Whether no connection came about, so that the call cannot have arrived.
fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A node's status as the caller is told it: code, message and details, without the hop's own headers.
fn told(status: Status) -> Status {
    if is_timeout(&status) {
        return exceeded("a node did not answer in time");
    }
    if is_broken_connection(&status) {
        return Refusal::Unavailable(format!("the connection to a node broke: {}", status.message())).into();
    }
    Status::with_details(status.code(), status.message(), bytes::Bytes::copy_from_slice(status.details()))
}

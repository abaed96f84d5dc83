//! One call to one partition: to the right node, in time, again where that helps; and many such calls at once.
//!
//! A call is a row of **tries**, each to one replica, inside the request's deadline:
//! - a stale view: the newer placement is learnt and the whole request starts over ([`Miss::Stale`]);
//! - not the leader: the named leader is asked, else the next replica, else all again after a short pause;
//! - unavailable, or the connection broke: the next replica, likewise;
//! - damaged data: the next replica; told when there is none that could do better;
//! - no answer within [`Options::patience`](crate::Options): the next replica **as well**, while the first keeps its
//!   chance, so that a node that is frozen costs little and one that is only slow is not given up;
//! - a read that a replica may answer, and no answer by the time most are there: a hedge ([`hedge`](crate::hedge));
//! - anything else is the caller's to know.
//!
//! The first good answer wins and the other tries are dropped. Sending twice is harmless: reads change nothing, and every
//! write carries an id ([`write`](crate::write)). Replicas that lately failed are asked last
//! ([`health`](crate::health)).
//!
//! A node gets the time left less a margin as its own deadline. Calls run inside the caller's future: dropping it
//! cancels them.

mod course;
pub(crate) mod meta;
mod route;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::placement::Partition;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard;
use flotilla_proto::shard::shard_client::ShardClient;
use flotilla_proto::v1::Consistency;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Response, Status};

use self::course::Course;
pub(crate) use self::meta::Resend;
use self::verdict::is_missing;
use crate::admission::{Deadline, exceeded};
use crate::chance::Chance;
use crate::health::Health;
use crate::hedge::Hedges;
use crate::line::Line;
use crate::metrics::Metrics;
use crate::placement::{Placement, View};
use crate::pool::Pool;
use crate::read::options::{Preference, ReadOptions};

/// Between two rounds over the replicas: short, since a new leader is there within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// Of the time left, the part after which the next replica is asked as well.
const PATIENCE_PART: u32 = 3;
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

/// An answer, and the node that gave it.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What it says.
    pub value: T,
    /// Whose it is.
    pub node: NodeId,
}

/// Which replicas may answer, and which are asked first.
#[derive(Clone, Copy, Debug)]
pub enum Whom<'a> {
    /// The leader alone.
    Leader,
    /// Whoever these options allow.
    Reader(&'a ReadOptions),
    /// This node first, since it has the view of this log index; any other that is as far will do.
    Viewer(NodeId, LogIndex),
}

impl Whom<'_> {
    fn is_leader(self) -> bool {
        match self {
            Whom::Leader => true,
            Whom::Reader(options) => options.is_linearizable(),
            Whom::Viewer(..) => false,
        }
    }

    fn fresh(self, partition: PartitionId) -> Option<shard::Freshness> {
        match self {
            Whom::Leader => None,
            Whom::Reader(options) => Some(options.fresh(partition)),
            Whom::Viewer(_, at_least) => {
                let consistency = Consistency::Any.into();
                Some(shard::Freshness { consistency, max_lag_ms: 0, at_least })
            }
        }
    }
}

/// What a call carries to the node.
#[derive(Clone, Debug)]
pub struct Call {
    /// The partition, the caller's epoch, and how fresh the answer must be.
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
    health: Health,
    hedges: Hedges,
    chance: Arc<Chance>,
    patience_max: Duration,
    leaders: RwLock<HashMap<PartitionId, NodeId>>,
    meta_leader: Mutex<Option<String>>,
}

impl Fanout {
    /// Calls by `placement` over the channels of `pool`. `patience_max` bounds the wait for one replica before the next one is
    /// asked as well.
    pub(crate) fn new(
        pool: Arc<Pool>,
        placement: Arc<Placement>,
        metrics: Metrics,
        chance: Arc<Chance>,
        patience_max: Duration,
    ) -> Fanout {
        Fanout {
            pool,
            placement,
            health: Health::new(chance.clone(), metrics.clone()),
            metrics,
            hedges: Hedges::default(),
            chance,
            patience_max,
            leaders: RwLock::default(),
            meta_leader: Mutex::default(),
        }
    }

    /// One call of `verb` to `partition`, sent by `send` to one replica after the other until one answers.
    pub async fn call<T, F>(
        &self,
        view: &View,
        partition: PartitionId,
        deadline: Deadline,
        (verb, whom): (&'static str, Whom<'_>),
        send: impl Fn(ShardClient<Line>, Call) -> F,
    ) -> Result<Answer<T>, Miss>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut target = view.target(partition);
        target.fresh = whom.fresh(partition);
        let mut course = Course::new(self, self.order(view, partition, whom), deadline, verb, whom);
        let mut tries = FuturesUnordered::new();
        loop {
            if let Some(node) = course.next()? {
                let (since, target, send) = (Instant::now(), target.clone(), &send);
                tries.push(async move {
                    let end = self.send(view, node, target, deadline, send).await;
                    (node, since, end)
                });
            }
            match ended(&mut tries, course.alarm()).await {
                Some((node, since, Ok(value))) => {
                    course.answered(node, since.elapsed());
                    if whom.is_leader() {
                        self.remember(partition, node);
                    }
                    return Ok(Answer { value, node });
                }
                Some((node, _, Err(status))) => course.refused(node, status)?,
                None => course.rung(),
            }
        }
    }

    /// One try.
    async fn send<T, F>(
        &self,
        view: &View,
        node: NodeId,
        target: shard::Target,
        deadline: Deadline,
        send: &impl Fn(ShardClient<Line>, Call) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let unknown = || Refusal::Unavailable(format!("the address of node {node} is not known"));
        let client = self.pool.shard(view.address(node).ok_or_else(unknown)?)?;
        Ok(send(client, Call { target, timeout: deadline.for_next_hop() }).await?.into_inner())
    }

    /// The replicas that may answer, in the order in which they are asked if all are healthy.
    fn order(&self, view: &View, partition: PartitionId, whom: Whom<'_>) -> Vec<NodeId> {
        let Some(partition) = view.partition(partition) else { return Vec::new() };
        let mut order = candidates(partition, whom);
        let leader = self.leader(partition.id).filter(|node| order.contains(node)).or(order.first().copied());
        let is_other = |node: &NodeId| Some(*node) != leader;
        if whom.is_leader() {
            order.sort_by_key(is_other);
            return order;
        }
        let now = Instant::now();
        let time = |node: &NodeId| self.health.time(*node, now);
        match whom {
            Whom::Leader => {}
            Whom::Viewer(viewer, _) => order.sort_by_cached_key(|node| (*node != viewer, time(node))),
            Whom::Reader(options) => match options.preference {
                Preference::Leader => order.sort_by_cached_key(|node| (is_other(node), time(node))),
                Preference::Nearest => order.sort_by_cached_key(time),
                Preference::Replica => {
                    self.chance.shuffle(&mut order);
                    order.sort_by_key(|node| !is_other(node));
                }
            },
        }
        order
    }

    /// How long one replica may keep silent before the next one is asked as well.
    fn patience(&self, deadline: Deadline) -> Duration {
        (deadline.left() / PATIENCE_PART).min(self.patience_max)
    }

    fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        self.leaders.read().get(&partition).copied()
    }

    fn remember(&self, partition: PartitionId, node: NodeId) {
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
            return Err(given_up(Some(cause)));
        }
        self.metrics.retries.inc();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}

/// The replicas that may answer, each once, in the map's order.
fn candidates(partition: &Partition, whom: Whom<'_>) -> Vec<NodeId> {
    // A replica that only comes may lead before the map says that it is there.
    let comes = partition.change.and_then(|change| change.add);
    let others: Vec<NodeId> =
        if whom.is_leader() { comes.into_iter().collect() } else { partition.learners.clone() };
    let mut candidates = partition.replicas.clone();
    for node in others {
        if !candidates.contains(&node) {
            candidates.push(node);
        }
    }
    candidates
}

/// The status of a call whose time is up.
fn given_up(last: Option<&Status>) -> Status {
    let last = last.map_or("there is no replica", Status::message);
    exceeded(&format!("the time was up; the last refusal was: {last}"))
}

/// The next try to end; none if the alarm rings first.
async fn ended<F: Future>(tries: &mut FuturesUnordered<F>, alarm: Option<Instant>) -> Option<F::Output> {
    let ended = async {
        match tries.next().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
    };
    match alarm {
        Some(at) => tokio::time::timeout_at(at, ended).await.ok(),
        None => Some(ended.await),
    }
}

/// Runs the calls, [`WIDTH`] at once, and gives their answers in the order of the calls. The first miss ends it, unless the
/// answer `allows_partial`: then a call whose partition did not answer gives why.
pub async fn gather<T>(
    calls: Vec<BoxFuture<'_, Result<T, Miss>>>,
    allows_partial: bool,
) -> Result<Vec<Result<T, Status>>, Miss> {
    let mut ends: Vec<Option<Result<T, Status>>> = calls.iter().map(|_| None).collect();
    let mut running = Running::new(calls);
    while let Some((n, end)) = running.next().await {
        ends[n] = Some(match end {
            Err(Miss::Failed(status)) if allows_partial && is_missing(&status) => Err(status),
            end => Ok(end?),
        });
    }
    Ok(ends.into_iter().flatten().collect())
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

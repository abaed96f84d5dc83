//! How far a replica may be behind, without comparing the clocks of two machines.
//!
//! Every [`Options::sync_interval_ms`] a node asks each node that leads some of its partitions, in one call, up to which log
//! index it would read them. Everything acknowledged before the question was asked stands at or below the answer; so once
//! that index is applied here, this replica lags by no more than the time since **asking**, on its own clock. A node asks
//! itself too: a leader that is cut off then still knows how old its state may be.
//!
//! [`Lag`] is the bookkeeping, pure; [`Watched`] is what a replica keeps of it; [`follow`] asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::limits::LAG_MS_DEFAULT;
use flotilla_proto::peer;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Replica;
use super::registry::Registry;
use crate::env::clock::{self, Instant};
use crate::peers::Peers;

/// Questions remembered that are answered and whose index is not applied yet.
const QUESTIONS_MAX: usize = 128;
/// A node that does not answer within this is asked anew.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often leaders are asked, and how much lag is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Milliseconds between two questions. Default 100, at least 10.
    pub sync_interval_ms: u64,
    /// Milliseconds of lag that a bounded read allows where it names none. Default 5,000, at least 1.
    pub max_lag_ms: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { sync_interval_ms: 100, max_lag_ms: LAG_MS_DEFAULT }
    }
}

/// What one replica knows of its lag.
#[derive(Debug, Default)]
pub struct Lag {
    /// When a leader was asked, and its answer: both ascending, none of them applied when it was last looked at.
    waiting: VecDeque<(Instant, LogIndex)>,
    /// When the newest question was asked whose answer is applied.
    caught_up: Option<Instant>,
    /// The newest answer.
    newest: LogIndex,
}

impl Lag {
    /// A leader was asked at `asked` and answered `index`.
    pub fn answered(&mut self, asked: Instant, index: LogIndex) {
        if self.waiting.back().is_some_and(|(last, _)| *last >= asked) {
            return;
        }
        // A later question with no larger an answer says more than an earlier one.
        while self.waiting.back().is_some_and(|(_, known)| *known >= index) {
            self.waiting.pop_back();
        }
        if self.waiting.len() >= QUESTIONS_MAX {
            let mut n = 0;
            self.waiting.retain(|_| {
                n += 1;
                n % 2 == 0
            });
        }
        self.waiting.push_back((asked, index));
        self.newest = self.newest.max(index);
    }

    /// Everything up to `index` is applied here.
    pub fn applied(&mut self, index: LogIndex) {
        while let Some((asked, _)) = self.waiting.front().filter(|(_, wanted)| *wanted <= index) {
            self.caught_up = self.caught_up.max(Some(*asked));
            self.waiting.pop_front();
        }
    }

    /// Whether the replica holds everything acknowledged before `then`.
    pub fn holds(&self, then: Instant) -> bool {
        self.caught_up.is_some_and(|asked| asked >= then)
    }

    /// The index after which the replica will hold everything acknowledged before `then`, if that is known.
    pub fn wanted(&self, then: Instant) -> Option<LogIndex> {
        self.waiting.iter().find(|(asked, _)| *asked >= then).map(|(_, index)| *index)
    }

    /// How far it is behind at most, in time, if that is known; and in log entries.
    pub fn figures(&self, applied: LogIndex, now: Instant) -> (Option<Duration>, u64) {
        (self.caught_up.map(|asked| now - asked), self.newest.saturating_sub(applied))
    }
}

/// A replica's lag, and a sign of life whenever a leader has answered.
#[derive(Debug)]
pub struct Watched {
    lag: Mutex<Lag>,
    answers: watch::Sender<()>,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched { lag: Mutex::default(), answers: watch::Sender::new(()) }
    }
}

impl Watched {
    /// A leader that was asked at `asked` answered `index`.
    pub fn answered(&self, asked: Instant, index: LogIndex) {
        self.lag.lock().answered(asked, index);
        self.answers.send_replace(());
    }

    /// Wakes with each answer from now on.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answers.subscribe()
    }

    /// Looks at the lag as it is when everything up to `applied` is.
    pub fn look<T>(&self, applied: LogIndex, look: impl FnOnce(&Lag) -> T) -> T {
        let mut lag = self.lag.lock();
        lag.applied(applied);
        look(&lag)
    }
}

impl Registry {
    /// The log indexes at which this node, as their leader, would read these partitions; 0 for one that it does not lead.
    pub async fn read_indexes(&self, partitions: &[PartitionId]) -> Vec<LogIndex> {
        let held: BTreeMap<PartitionId, Arc<Replica>> =
            self.serving().into_iter().map(|replica| (replica.id(), replica)).collect();
        let index = |id: &PartitionId| {
            let replica = held.get(id).cloned();
            async move {
                match replica {
                    Some(replica) => replica.read_index().await.unwrap_or(0),
                    None => 0,
                }
            }
        };
        futures::future::join_all(partitions.iter().map(index)).await
    }
}

/// Asks the leaders of what `registry` holds, for ever.
pub async fn follow(registry: Arc<Registry>, peers: Arc<Peers>, options: Options) {
    let interval = Duration::from_millis(options.sync_interval_ms.max(10));
    let mut asking: FuturesUnordered<BoxFuture<'static, NodeId>> = FuturesUnordered::new();
    let mut busy = BTreeSet::new();
    loop {
        let next = (clock::now() + interval).to_tokio();
        for (leader, replicas) in by_leader(&registry) {
            if busy.insert(leader) {
                let (registry, peers) = (registry.clone(), peers.clone());
                asking.push(Box::pin(async move {
                    ask(&registry, &peers, leader, replicas).await;
                    leader
                }));
            }
        }
        loop {
            tokio::select! {
                Some(leader) = asking.next(), if !asking.is_empty() => drop(busy.remove(&leader)),
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

fn by_leader(registry: &Registry) -> BTreeMap<NodeId, Vec<Arc<Replica>>> {
    let mut leaders: BTreeMap<NodeId, Vec<Arc<Replica>>> = BTreeMap::new();
    for replica in registry.serving() {
        if let Some(leader) = replica.leader() {
            leaders.entry(leader).or_default().push(replica);
        }
    }
    leaders
}

async fn ask(registry: &Registry, peers: &Peers, leader: NodeId, replicas: Vec<Arc<Replica>>) {
    let asked = clock::now();
    let partitions: Vec<PartitionId> = replicas.iter().map(|replica| replica.id()).collect();
    let indexes = if leader == peers.node() {
        registry.read_indexes(&partitions).await
    } else {
        match tokio::time::timeout(ANSWER_MAX, ask_peer(peers, leader, &partitions)).await {
            Ok(Ok(indexes)) => indexes,
            Ok(Err(why)) => {
                tracing::debug!(leader = leader.0, %why, "a leader does not tell its read indexes");
                return;
            }
            Err(_) => return,
        }
    };
    for (replica, index) in replicas.iter().zip(indexes).filter(|(_, index)| *index > 0) {
        replica.lag().answered(asked, index);
    }
}

async fn ask_peer(
    peers: &Peers,
    leader: NodeId,
    partitions: &[PartitionId],
) -> Result<Vec<LogIndex>, tonic::Status> {
    let request = peer::ReadIndexesRequest {
        cluster: peers.cluster().to_string(),
        from: peers.node().0,
        partitions: partitions.iter().map(|id| id.0).collect(),
    };
    let answer = peers.peer(leader)?.read_indexes(request).await?.into_inner();
    Ok(answer.indexes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_replica_lags_by_the_time_since_the_newest_question_whose_answer_it_has_applied() {
        let (start, mut lag) = (clock::now(), Lag::default());
        assert_eq!(lag.figures(0, start), (None, 0));
        lag.answered(at(start, 0), 10);
        lag.answered(at(start, 100), 20);
        lag.answered(at(start, 200), 30);
        lag.applied(9);
        assert_eq!(lag.figures(9, at(start, 300)), (None, 21));
        lag.applied(25);
        assert_eq!(lag.figures(25, at(start, 300)), (Some(Duration::from_millis(200)), 5));
        assert!(lag.holds(at(start, 100)) && !lag.holds(at(start, 101)));
        assert_eq!((lag.wanted(at(start, 101)), lag.wanted(at(start, 201))), (Some(30), None));
        lag.applied(30);
        assert_eq!(lag.figures(30, at(start, 300)), (Some(Duration::from_millis(100)), 0));
    }

    #[test]
    fn an_idle_leader_keeps_the_replica_fresh() {
        let (start, mut lag) = (clock::now(), Lag::default());
        for n in 0..1_000 {
            lag.answered(at(start, n * 100), 7);
            lag.applied(7);
        }
        assert_eq!(lag.figures(7, at(start, 99_950)), (Some(Duration::from_millis(50)), 0));
        assert!(lag.waiting.is_empty());
    }

    #[test]
    fn an_answer_that_came_late_or_from_a_leader_that_is_behind_takes_nothing_back() {
        let (start, mut lag) = (clock::now(), Lag::default());
        lag.answered(at(start, 100), 50);
        lag.answered(at(start, 50), 60);
        assert_eq!(lag.wanted(start), Some(50), "an older question says less");
        lag.answered(at(start, 200), 40);
        assert_eq!(
            (lag.wanted(start), lag.waiting.len()),
            (Some(40), 1),
            "a newer one with less to apply says more"
        );
        lag.applied(45);
        assert!(lag.holds(at(start, 200)));
        lag.answered(at(start, 150), 44);
        lag.applied(45);
        assert_eq!(lag.figures(45, at(start, 200)).0, Some(Duration::ZERO));
    }

    #[test]
    fn a_replica_far_behind_remembers_a_bounded_number_of_questions_and_still_knows() {
        let (start, mut lag) = (clock::now(), Lag::default());
        for n in 0..10_000 {
            lag.answered(at(start, n * 100), n + 1);
        }
        assert!(lag.waiting.len() <= QUESTIONS_MAX);
        lag.applied(9_990);
        let (time, entries) = lag.figures(9_990, at(start, 1_000_000));
        assert_eq!(entries, 10);
        assert!(time.unwrap() < Duration::from_secs(60), "{time:?}");
    }
}

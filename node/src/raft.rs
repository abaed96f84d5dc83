//! Raft: from a proposed command to an applied one. The only place that names openraft.
//!
//! ```text
//! propose -> append (log lanes, fsync) -> commit (quorum) -> apply (machine) -> reply
//! ```
//!
//! A [`Group`] is one Raft group on this node: a partition's, or the meta group. All groups share one type
//! configuration ([`types::Types`]): a command is opaque bytes, a reply is a [`machine::Reply`](crate::machine::Reply).
//! Three adapters stand between openraft and our layers: [`log_store`] (over `crate::log`), [`state_machine`] (over a
//! [`Machine`]) and [`network`] (to the same group on other nodes, whose calls come in through a [`door::Door`]). A replica
//! that lags behind the purged log gets the durable state's files ([`outbox`] to [`inbox`]).
//!
//! **Boot gate.** A group remembers the last log index that it found at boot and answers no linearizable read before that
//! is applied: a restarted leader that resumes its term could otherwise answer from a state that lags what it had
//! acknowledged. Restoring a leadership without an election is off.
//!
//! **Quiet after boot.** A leader answers reads by its lease: no follower that acknowledged it votes for another before the
//! lease is over. A follower that restarts has forgotten when it acknowledged last, so it grants no vote for one such time.
//!
//! **Errors after propose mean unknown.** Once a command was handed over, every failure but a rejection says that it may
//! or may not be applied; callers retry with the same request id.

pub mod door;
mod failure;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod inbox;
pub mod log_store;
mod members;
pub mod network;
pub mod outbox;
mod proposals;
mod reading;
pub mod state_machine;
pub mod types;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{LogIndex, NodeId, PartitionId};
use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;

use self::log_store::LogStore;
pub use self::members::Members;
use self::network::Network;
use self::outbox::Throttle;
use self::proposals::Proposals;
use self::state_machine::StateMachine;
use self::types::Types;
use crate::env::clock;
use crate::log::GroupLog;
use crate::machine::{Machine, Reply};
use crate::peers::Peers;
use crate::planted::{self, Bug};
use crate::storage::Fault;

/// How a group keeps time.
#[derive(Clone, Debug)]
pub struct Options {
    /// Milliseconds between a leader's heartbeats (default 400, 50 to 10,000). A follower that hears nothing stands for
    /// election once the leader's lease, three times as long, and two to three times as long again are over.
    ///
    /// 2026-11-21: with 300 ms and four to six times as long, a new leader stood 3.0 to 3.5 s after a kill, above the 3 s that
    /// are promised; these defaults make it 2.0 to 2.4 s with as few heartbeats as that allows.
    pub heartbeat_ms: u64,
    /// Log entries kept behind the durable state (default 0, in a cluster 1,000): a follower that lags no more than this
    /// needs no files.
    pub entries_kept: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { heartbeat_ms: 400, entries_kept: 0 }
    }
}

impl Options {
    /// The longest time without a word from the leader after which a follower stands for election; also the lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms * 3)
    }

    fn config(&self, group: PartitionId) -> openraft::Config {
        openraft::Config {
            cluster_name: format!("group-{group}"),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.heartbeat_ms * 2,
            election_timeout_max: self.heartbeat_ms * 3,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.entries_kept,
            // Only a follower whose entries are purged is sent the files.
            replication_lag_threshold: u64::MAX,
            max_payload_entries: 256,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            // What a follower lost although it had said that it held it (its disk changed the very end of its log, which a crash could
            // have left so) is sent again; `network` tells of it. Else openraft never writes to it again.
            allow_log_reversion: Some(true),
            ..openraft::Config::default()
        }
    }
}

/// What all groups of a node share.
#[derive(Clone)]
pub struct Home {
    /// The other nodes, and which one this is.
    pub peers: Arc<Peers>,
    /// The rate of what is copied to other nodes.
    pub throttle: Arc<Throttle>,
    /// How groups keep time.
    pub options: Options,
}

/// How a group begins on this node, if its log is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// As a new group of these voters: each of them writes the same first entry, so that a majority of them can begin
    /// whichever is missing. The first stands for election at once.
    Found(Vec<NodeId>),
    /// As a replica that an existing group will write to.
    Join,
}

/// What of a group's log is on this node's disk for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// The last log index that was found when the group was opened.
    pub at_boot: LogIndex,
    /// Up to which index entries are committed, and synced here.
    pub log: LogIndex,
    /// The newest term that it knows.
    pub term: u64,
    /// The newest term in which a vote is synced here.
    pub voted: u64,
}

/// A Raft group on this node.
pub struct Group<M: Machine> {
    id: PartitionId,
    node: NodeId,
    raft: openraft::Raft<Types, StateMachine<M>>,
    log: GroupLog,
    proposals: Proposals<M>,
    /// The last log index found at boot: see the boot gate.
    boot_index: LogIndex,
    /// The same, whatever the gate is.
    found_index: LogIndex,
    /// No vote before: see quiet after boot.
    votes_from: clock::Instant,
    heartbeat: Duration,
    lease: Duration,
    /// The log index up to which the machine's state is published.
    published: Arc<AtomicU64>,
    /// Up to which index this replica told others that the log is committed.
    told: Arc<AtomicU64>,
    /// The newest term whose leadership was to be handed over.
    handed_over: AtomicU64,
}

impl<M: Machine> Group<M> {
    /// Opens the group over its log and machine, whose files are in `folder`. Returns once the group runs, not once
    /// everything is applied: reads wait for that by themselves.
    pub async fn open(
        id: PartitionId,
        start: Start,
        log: GroupLog,
        machine: M,
        folder: PathBuf,
        home: &Home,
    ) -> Result<Group<M>, Fault> {
        let broken = |what: &str, why: &dyn std::fmt::Display| Fault::Io {
            file: format!("group {id}").into(),
            reason: format!("{what}: {why}"),
            is_full: false,
        };
        let node = home.peers.node();
        let config = home.options.config(id).validate().map_err(|e| broken("configuration", &e))?;
        let is_open = Arc::new(AtomicBool::new(false));
        let machine = StateMachine::new(machine, folder, is_open.clone())?;
        let published = machine.published();
        let has_voted = log.vote().map_err(|e| broken("log", &e))?.is_some();
        let boot_index = log.state().map_err(|e| broken("log", &e))?.last_index.unwrap_or(0);
        let boot_index = boot_index.max(machine.applied().map_or(0, |id| id.index));
        let found_index = boot_index;
        let boot_index = if planted::has(Bug::BootGateOff) { 0 } else { boot_index };
        let store = LogStore::new(log.clone()).behind(machine.durable());
        let mut stands_at_once = false;
        match (machine.applied(), start) {
            (Some(applied), _) => store.follow_state(applied).await.map_err(|e| broken("log", &e))?,
            (None, Start::Found(voters)) => {
                let is_new = store.found(&voters).await.map_err(|e| broken("found", &e))?;
                stands_at_once = is_new && voters.first() == Some(&node);
            }
            (None, Start::Join) => {}
        }
        let network = Network {
            peers: home.peers.clone(),
            group: id,
            throttle: home.throttle.clone(),
            patience: Duration::from_millis(home.options.heartbeat_ms / 10),
            told: Arc::default(),
        };
        let told = network.told.clone();
        let raft = openraft::Raft::new(node.0, Arc::new(config), network, store, machine)
            .await
            .map_err(|e| broken("open", &e))?;
        is_open.store(true, Ordering::SeqCst);
        let votes_from = if has_voted && !planted::has(Bug::BootGateOff) {
            clock::now() + home.options.lease()
        } else {
            clock::now()
        };
        let heartbeat = Duration::from_millis(home.options.heartbeat_ms);
        let proposals = Proposals::start(id, raft.clone(), log.clone());
        let group = Group {
            id,
            node,
            raft,
            log,
            proposals,
            boot_index,
            found_index,
            votes_from,
            heartbeat,
            lease: home.options.lease(),
            published,
            told,
            handed_over: AtomicU64::new(0),
        };
        // Nobody else can lead, or nobody leads yet: no need to wait for silence.
        if stands_at_once || group.members().is_alone(node) {
            group.raft.trigger().elect(false).await.map_err(|e| broken("elect", &e))?;
        }
        Ok(group)
    }

    /// Which group it is.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The node it is on.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// A refusal before the command was handed over says where else to go. After that, [`Refusal::Unavailable`] means
    /// unknown: the command may or may not be applied.
    pub async fn propose(&self, command: Bytes) -> Result<Reply, Refusal> {
        self.has_space()?;
        self.proposals.propose(command).await
    }

    /// Waits until this group has a leader and has applied what it found at boot. `within` bounds the wait.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), Refusal> {
        let wait = self.raft.wait(Some(within));
        let late = |e: openraft::metrics::WaitError| {
            Refusal::Unavailable(format!("partition {} is not ready yet: {e}", self.id))
        };
        wait.metrics(|m| m.current_leader.is_some(), "a leader").await.map_err(late)?;
        wait.applied_index_at_least(Some(self.boot_index), "the boot gate").await.map_err(late)?;
        Ok(())
    }

    /// Waits until `index` is applied here; the caller's deadline bounds the wait.
    pub async fn wait_applied(&self, index: LogIndex) -> Result<(), Refusal> {
        if self.applied() >= index {
            return Ok(());
        }
        let wait = self.raft.wait(Some(Duration::from_secs(600)));
        match wait.applied_index_at_least(Some(index), "read fence").await {
            Ok(_) => Ok(()),
            Err(why) => Err(Refusal::Unavailable(format!("partition {}: {why}", self.id))),
        }
    }

    /// The last log index applied here and to be seen.
    pub fn applied(&self) -> LogIndex {
        self.published.load(Ordering::SeqCst)
    }

    /// The term, the last log index held, and the index up to which the log is purged, for metrics.
    pub fn numbers(&self) -> (u64, LogIndex, LogIndex) {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.current_term, now.last_log_index.unwrap_or(0), now.purged.map_or(0, |id| id.index))
    }

    /// Tells the group that its machine's durable state has moved on, so that the log behind it can be purged.
    pub async fn purge_behind_durable(&self) -> Result<(), Refusal> {
        self.raft.trigger().snapshot().await.map_err(|why| self.stopped(&why))
    }

    /// Stops the group: no further command is applied. Idempotent.
    pub async fn stop(&self) {
        self.proposals.stop();
        if let Err(why) = self.raft.shutdown().await {
            tracing::warn!(group = self.id.0, %why, "a raft group did not stop cleanly");
        }
    }

    /// Whether the group runs; if not, why.
    pub fn health(&self) -> Result<(), String> {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().running_state.as_ref().map_err(ToString::to_string).copied()
    }

    fn not_leader(&self, leader: Option<u64>) -> Refusal {
        Refusal::NotLeader { partition: self.id.0, leader }
    }
}

#[cfg(test)]
mod tests;

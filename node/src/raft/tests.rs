use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{BasicNode, StorageError};
use parking_lot::Mutex;

use super::state_machine::DurableState;
use super::types::{LogId, Proposal, StoredMembership};
use super::*;
use crate::log::{self, Lanes};

/// Adds numbers up. Its "disk" is shared with the next boot; a checkpoint writes to it.
#[derive(Clone, Default)]
struct Tally {
    disk: Arc<Mutex<(Vec<u8>, u64)>>,
    mark: Vec<u8>,
    sum: u64,
    published: Arc<Mutex<u64>>,
}

impl Tally {
    fn boot(disk: Arc<Mutex<(Vec<u8>, u64)>>) -> Tally {
        let (mark, sum) = disk.lock().clone();
        Tally { disk, mark, sum, published: Arc::default() }
    }
}

impl Machine for Tally {
    fn boot_mark(&self) -> Vec<u8> {
        self.mark.clone()
    }

    fn durable_mark(&self) -> Vec<u8> {
        self.disk.lock().0.clone()
    }

    fn apply(&mut self, index: LogIndex, command: &Bytes) -> Result<Reply, Fault> {
        let amount = command.first().copied().ok_or(Fault::Cancelled)?;
        self.sum += u64::from(amount);
        Ok(Reply::Written { affected: self.sum, log_index: index })
    }

    fn publish(&mut self, _index: LogIndex, mark: Vec<u8>) -> Result<(), Fault> {
        self.mark = mark;
        *self.published.lock() = self.sum;
        Ok(())
    }

    fn link(&mut self, _into: &Path) -> Result<Vec<u8>, Fault> {
        Ok(self.durable_mark())
    }

    fn checkpoint(&mut self) -> Result<(), Fault> {
        *self.disk.lock() = (self.mark.clone(), self.sum);
        Ok(())
    }
}

fn lanes(folder: &Path) -> Arc<Lanes> {
    let options = log::Options { lanes: 2, segment_bytes: 64 << 10, ..log::Options::default() };
    Lanes::open(folder, options).expect("a healthy log").0
}

async fn open(lanes: &Lanes, machine: Tally) -> Group<Tally> {
    let log = lanes.group(7).expect("a healthy group");
    let options = Options { entries_kept: 10, ..Options::default() };
    let peers = Arc::new(Peers::new(NodeId(1), uuid::Uuid::nil(), Default::default()));
    let home = Home { peers, throttle: Arc::default(), options };
    let start = Start::Found(vec![NodeId(1)]);
    let folder = PathBuf::from("/nowhere");
    Group::open(PartitionId(7), start, log, machine, folder, &home).await.expect("opens")
}

fn one() -> Bytes {
    Bytes::from_static(&[1])
}

/// The suite also hands a snapshot from one machine to another, which groups of one voter never do.
struct Installing(StateMachine<Tally>);

impl RaftStateMachine<Types> for Installing {
    type SnapshotData = DurableState;
    type SnapshotBuilder = DurableState;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        self.0.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> DurableState {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, state: DurableState) -> io::Result<()> {
        self.0.adopt(state)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, DurableState>>> {
        self.0.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Installing, (tempfile::TempDir, Arc<Lanes>)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Arc<Lanes>), LogStore, Installing), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("a folder");
        let lanes = lanes(folder.path());
        let log = LogStore::new(lanes.group(3).expect("a group"));
        let machine =
            StateMachine::new(Tally::default(), PathBuf::new(), Arc::default()).expect("a new machine");
        Ok(((folder, lanes), log, Installing(machine)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_store_passes_openrafts_own_suite() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commands_are_there_after_a_reopen_and_reads_wait_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = lanes(folder.path());
    let group = open(&log, Tally::default()).await;
    group.read_fence_when_ready().await;
    for n in 1..=50 {
        let reply = group.propose(one()).await.expect("proposed");
        assert!(matches!(reply, Reply::Written { affected, .. } if affected == n));
    }
    group.stop().await;
    log.close().await;
    drop((group, log));

    let log = lanes(folder.path());
    let machine = Tally::default();
    let published = machine.published.clone();
    let group = open(&log, machine).await;
    group.read_fence_when_ready().await;
    assert_eq!(*published.lock(), 50);
    group.stop().await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_only_behind_the_durable_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = lanes(folder.path());
    let disk = Arc::new(Mutex::new((Vec::new(), 0)));
    let group = open(&log, Tally::boot(disk.clone())).await;
    group.read_fence_when_ready().await;
    for _ in 0..100 {
        group.propose(one()).await.expect("proposed");
    }
    assert_eq!(group.numbers().2, 0);
    group.purge_behind_durable().await.expect("told");
    let wait = group.raft.wait(Some(Duration::from_secs(20)));
    let kept = |m: &openraft::RaftMetrics<Types>| Some(m.last_applied?.index - m.purged?.index);
    wait.metrics(|m| kept(m) == Some(10), "purged").await.expect("purged");
    group.propose(one()).await.expect("proposed");
    group.stop().await;
    log.close().await;
    drop((group, log));

    let log = lanes(folder.path());
    let machine = Tally::boot(disk);
    let published = machine.published.clone();
    let group = open(&log, machine).await;
    group.read_fence_when_ready().await;
    assert_eq!(*published.lock(), 101);
    group.stop().await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_stops_this_group_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = lanes(folder.path());
    let group = open(&log, Tally::default()).await;
    group.read_fence_when_ready().await;
    let refused = group.propose(Bytes::new()).await.expect_err("the machine breaks");
    assert!(matches!(refused, Refusal::DataLoss(_)), "{refused:?}");
    assert!(group.propose(one()).await.is_err());
    group.stop().await;
    log.close().await;
}

impl Group<Tally> {
    async fn read_fence_when_ready(&self) {
        self.wait_ready(Duration::from_secs(20)).await.expect("ready");
        self.read_fence().await.expect("a fence");
    }
}

#[test]
fn entries_survive_their_encoding_and_rubbish_does_not_decode() {
    use openraft::vote::RaftLeaderId as _;
    use openraft::{EntryPayload, Membership};
    use types::{Entry, decode_entry, encode_entry};
    let leader = openraft::alias::LeaderIdOf::<Types>::new(3, 1).to_committed();
    let log_id = LogId::new(leader, 9);
    let members = std::collections::BTreeMap::from([(1, BasicNode::default())]);
    let membership = Membership::new(vec![std::collections::BTreeSet::from([1])], members).expect("legal");
    let payloads =
        [EntryPayload::Blank, EntryPayload::Normal(Proposal(one())), EntryPayload::Membership(membership)];
    for payload in payloads {
        let entry = Entry { log_id, payload };
        let body = encode_entry(&entry).expect("encodes");
        assert_eq!(decode_entry(&body), Some(entry));
        for cut in 0..body.len().min(8) {
            assert_eq!(decode_entry(&body.slice(..cut)), None);
        }
    }
}

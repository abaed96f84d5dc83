//! The partition's machine over a real store: digests at a log index, and what comes back after a reopen.

mod answers;
mod replaces;
mod writes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::Filter;
use flotilla_proto::ids::CollectionId;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::schema::CollectionSpec;

use super::command::{Body, Command, Rows};
use super::*;
use crate::storage::digest::recount;
use crate::storage::store::{Options, Store};
use crate::storage::{Digest, StoredRow};

const COLLECTION: CollectionId = CollectionId::from_u128(7);

struct Machined {
    machine: PartitionMachine,
    store: Arc<Store>,
    signals: Signals,
}

fn open(dir: &Path) -> Machined {
    let spec = Arc::new(CollectionSpec { name: "c".into(), partitions: 1, ..Default::default() });
    let (store, restored) = Store::open(dir, spec, Options::default()).unwrap();
    let (store, signals) = (Arc::new(store), Signals::default());
    let machine = PartitionMachine::new(COLLECTION, store.clone(), restored, signals.clone()).unwrap();
    Machined { machine, store, signals }
}

impl Machined {
    fn apply(&mut self, index: LogIndex, body: Body) -> Reply {
        let command = Command { collection: COLLECTION, request: None, body };
        self.machine.apply(index, &command.encode().unwrap()).unwrap()
    }

    fn publish(&mut self, index: LogIndex) {
        self.machine.publish(index, index.to_le_bytes().to_vec()).unwrap();
    }

    fn seal(&mut self) {
        self.signals.freeze_wanted.store(true, std::sync::atomic::Ordering::SeqCst);
        self.machine.checkpoint().unwrap();
        assert!(self.store.seal().unwrap().is_some());
    }

    fn digest(&mut self, index: LogIndex, deep: bool) -> Digest {
        let reply = self.apply(index, Body::Digest { deep });
        assert_eq!(reply, Reply::Written { affected: 0, log_index: index });
        self.signals.digests.rolling(index).unwrap()
    }
}

fn upsert(keys: std::ops::Range<u64>) -> Body {
    let spec = CollectionSpec::default();
    let row = |key| StoredRow::from_domain(&Record::new(key).field("n", key as i64), &spec).unwrap();
    Body::Upsert(keys.map(row).collect())
}

#[test]
fn replicas_tell_one_digest_at_one_index_wherever_their_batches_end() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [mut one, mut other] = dirs.each_ref().map(|dir| open(dir.path()));
    for machine in [&mut one, &mut other] {
        machine.apply(1, upsert(0..50));
        machine.apply(2, Body::Delete(vec![Key::Number(3)]));
    }
    one.publish(2);
    one.seal();
    let digest = one.digest(3, true);
    one.publish(3);
    // All of one batch: what comes behind the question is not in the answer.
    assert_eq!(other.digest(3, true), digest);
    other.apply(4, upsert(0..10));
    other.publish(4);
    assert_eq!(other.signals.digests.rolling(3), Some(digest));
    let view = other.signals.digests.view(3).unwrap();
    assert_eq!((view.live(), recount(&view, &|| false).unwrap()), (49, digest));
    assert_ne!(other.store.digest(), digest);
    assert_eq!(other.signals.digests.rolling(4), None);
}

#[test]
fn few_digests_and_fewer_views_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    for index in 1..=40 {
        one.digest(index, index % 2 == 0);
        one.publish(index);
    }
    let held: Vec<LogIndex> = (1..=40).filter(|at| one.signals.digests.rolling(*at).is_some()).collect();
    assert_eq!(held, (25..=40).collect::<Vec<_>>());
    let views: Vec<LogIndex> = (1..=40).filter(|at| one.signals.digests.view(*at).is_some()).collect();
    assert_eq!(views, [38, 40]);
    assert!(one.signals.digests.expire(), "they are not old yet");
}

#[test]
fn a_digest_survives_a_reopen_and_is_found_again_by_replay() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, upsert(0..50));
    one.publish(1);
    one.seal();
    let filter = Filter::Equal("n".into(), 4.into());
    let bodies = || [upsert(40..60), Body::DeleteFilter { filter: filter.clone(), fields: BTreeMap::new() }];
    for (index, body) in (2..).zip(bodies()) {
        one.apply(index, body);
    }
    let digest = one.digest(4, false);
    one.publish(4);
    drop(one);
    let mut one = open(dir.path());
    assert_eq!(one.store.digest(), recount(&one.store.view(), &|| false).unwrap());
    for (index, body) in (2..).zip(bodies()) {
        one.apply(index, body);
    }
    assert_eq!(one.digest(4, false), digest);
}

#[test]
fn a_manifest_of_before_the_digest_opens_and_counts_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = open(dir.path());
    one.apply(1, upsert(0..50));
    one.publish(1);
    let digest = one.store.digest();
    // As it was written then: mark and window, and nothing behind them.
    let former = postcard::to_stdvec(&(b"mark".to_vec(), dedup::Window::default())).unwrap();
    assert!(one.store.freeze(1, former));
    one.store.seal().unwrap();
    drop(one);
    let mut one = open(dir.path());
    assert_eq!((one.machine.boot_mark(), one.store.digest()), (b"mark".to_vec(), digest));
    one.apply(2, upsert(0..1));
    one.publish(2);
    assert_ne!(one.store.digest(), digest);
    one.seal();
    drop(one);
    let one = open(dir.path());
    assert_eq!(one.store.digest(), recount(&one.store.view(), &|| false).unwrap());
}

#[test]
fn records_beyond_the_most_are_rejected_by_every_replica_alike_and_what_takes_no_room_is_not() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut machines = dirs.each_ref().map(|dir| open(dir.path()));
    let within = |body: Body| match body {
        Body::Upsert(rows) => Body::Within { records_max: 10, rows: Rows::All(rows) },
        other => other,
    };
    let full = Reply::Rejected(Rejection::Crowded);
    let steps: [(Body, Option<u64>); 8] = [
        (within(upsert(0..8)), Some(8)),
        (within(upsert(6..11)), None),
        (within(upsert(6..10)), Some(4)),
        (within(upsert(0..10)), Some(10)),
        (within(upsert(10..11)), None),
        (Body::Delete(vec![Key::Number(3)]), Some(1)),
        (within(upsert(10..12)), None),
        (within(upsert(10..11)), Some(1)),
    ];
    for (index, (body, affected)) in (1..).zip(steps) {
        let bytes = Command { collection: COLLECTION, request: None, body }.encode().unwrap();
        for (n, machined) in machines.iter_mut().enumerate() {
            let reply = machined.machine.apply(index, &bytes).unwrap();
            let expected = match affected {
                Some(affected) => Reply::Written { affected, log_index: index },
                None => full.clone(),
            };
            assert_eq!(reply, expected, "command {index}");
            // Batches, and segments, end at moments of each replica's own.
            if index % (n as u64 + 1) == 0 {
                machined.publish(index);
            }
            if n == 1 && index == 4 {
                machined.seal();
            }
        }
    }
    assert_eq!(machines.each_ref().map(|machined| machined.store.live()), [10, 10]);
}

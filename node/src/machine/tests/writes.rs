//! Random histories of writes that are decided record by record, beside a map that decides them the obvious way.
//!
//! Two machines apply one log, and end their batches, seal, merge and restart at moments of their own. Every answer is the
//! map's, an answer to a request that comes again is the one it had, and both hold the same in the end.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::patch::{Edit, Patch};
use flotilla_proto::record::{Payload, Value};
use flotilla_proto::schema::FieldType;

use super::*;
use crate::index::Progress;
use crate::machine::command::{Expect, PatchRow, RequestId, Rules};
use crate::storage::sample::Dice;

/// The obvious way: each key's version, payload, and time to go.
#[derive(Clone, Debug, Default)]
struct Naive(BTreeMap<Key, (LogIndex, Payload, Option<u64>)>);

/// A record to be written: its key, its number, and when it expires.
type New = (Key, i64, Option<u64>);

/// A command as the test makes it up.
#[derive(Clone, Debug)]
enum Wish {
    Upsert(Vec<New>),
    If(Vec<(Expect, New)>),
    Delete(Vec<Key>),
    /// Those whose number is this.
    DeleteEqual(i64),
    Patch(Vec<Patch>),
    /// Those whose number is this.
    PatchEqual(i64, Edit),
    /// Of these keys, what expires by then.
    Expire(u64, Vec<Key>),
}

fn payload(n: i64) -> Payload {
    Payload::from([("n".to_owned(), n.into())])
}

/// What an edit makes of a payload, under the rule that `n` is an integer.
fn edited(before: &Payload, edit: &Edit) -> Option<Payload> {
    let mut after = before.clone();
    edit.apply(&mut after).ok()?;
    after.get("n").is_none_or(|n| matches!(n, Value::Int(_) | Value::Null)).then_some(after)
}

fn is_number(payload: &Payload, n: i64) -> bool {
    payload.get("n") == Some(&Value::Int(n))
}

/// An answer, as far as it is compared: records written, and the refused ones by place, with the version that was there.
type Answer = (u64, Vec<(u32, LogIndex)>);

impl Naive {
    fn apply(&mut self, index: LogIndex, wish: &Wish) -> Answer {
        match wish {
            Wish::Upsert(rows) => {
                let keys: BTreeSet<&Key> = rows.iter().map(|(key, ..)| key).collect();
                rows.iter().for_each(|row| self.put(index, row));
                (keys.len() as u64, Vec::new())
            }
            Wish::If(rows) => {
                let mut refused = Vec::new();
                for (place, (expect, row)) in (0..).zip(rows) {
                    let present = self.0.get(&row.0).map(|(version, ..)| *version);
                    let is_met = match expect {
                        Expect::Absent => present.is_none(),
                        Expect::Present => present.is_some(),
                        Expect::Version(version) => present.is_some_and(|present| present == *version),
                    };
                    match is_met {
                        true => self.put(index, row),
                        false => refused.push((place, present.unwrap_or(0))),
                    }
                }
                ((rows.len() - refused.len()) as u64, refused)
            }
            Wish::Delete(keys) => {
                let gone = keys.iter().filter(|key| self.0.remove(key).is_some()).count();
                (gone as u64, Vec::new())
            }
            Wish::DeleteEqual(n) => {
                let before = self.0.len();
                self.0.retain(|_, (_, payload, _)| !is_number(payload, *n));
                ((before - self.0.len()) as u64, Vec::new())
            }
            Wish::Patch(patches) => {
                let mut refused = Vec::new();
                for (place, patch) in (0..).zip(patches) {
                    let present = self.0.get_mut(&patch.key);
                    let version = present.as_ref().map_or(0, |(version, ..)| *version);
                    let is_meant = version != 0 && patch.if_version.is_none_or(|wanted| wanted == version);
                    let after = present.as_ref().filter(|_| is_meant);
                    let after = after.and_then(|(_, payload, _)| edited(payload, &patch.edit));
                    match (present, after) {
                        (Some(present), Some(after)) => (present.0, present.1) = (index, after),
                        _ => refused.push((place, version)),
                    }
                }
                ((patches.len() - refused.len()) as u64, refused)
            }
            Wish::PatchEqual(n, edit) => {
                let (mut patched, mut refused) = (0, Vec::new());
                let meant = self.0.values_mut().filter(|(_, payload, _)| is_number(payload, *n));
                for (version, payload, _) in meant {
                    match edited(payload, edit) {
                        Some(after) => {
                            (*version, *payload) = (index, after);
                            patched += 1;
                        }
                        None => refused.push((0, *version)),
                    }
                }
                (patched, refused)
            }
            Wish::Expire(until, keys) => {
                let is_due =
                    |key: &Key| self.0.get(key).is_some_and(|(.., when)| when.is_some_and(|at| at <= *until));
                let due: Vec<Key> = keys.iter().filter(|key| is_due(key)).cloned().collect();
                let gone = due.iter().filter(|key| self.0.remove(key).is_some()).count();
                (gone as u64, Vec::new())
            }
        }
    }
}

impl Naive {
    fn put(&mut self, index: LogIndex, (key, n, when): &New) {
        self.0.insert(key.clone(), (index, payload(*n), *when));
    }

    fn due(&self, until: u64) -> Vec<Key> {
        let is_due = |when: Option<u64>| when.is_some_and(|at| at <= until);
        self.0.iter().filter(|(_, (.., when))| is_due(*when)).map(|(key, _)| key.clone()).collect()
    }
}

fn row((key, n, when): &New) -> StoredRow {
    let record = Record { expires_at_ms: *when, ..Record::new(key.clone()).field("n", *n) };
    StoredRow::from_domain(&record, &CollectionSpec::default()).unwrap()
}

fn body(wish: &Wish) -> Body {
    match wish {
        Wish::Upsert(rows) => Body::Upsert(rows.iter().map(row).collect()),
        Wish::If(rows) => Body::UpsertIf(rows.iter().map(|(expect, new)| (*expect, row(new))).collect()),
        Wish::Delete(keys) => Body::Delete(keys.clone()),
        Wish::DeleteEqual(n) => {
            Body::DeleteFilter { filter: Filter::Equal("n".into(), (*n).into()), fields: BTreeMap::new() }
        }
        Wish::Patch(patches) => {
            let row = |patch: &Patch| PatchRow {
                key: patch.key.to_bytes(),
                edit: patch.edit.clone(),
                vectors: Vec::new(),
                if_version: patch.if_version,
            };
            Body::Patch { patches: patches.iter().map(row).collect(), rules: rules() }
        }
        Wish::PatchEqual(n, edit) => {
            let filter = Filter::Equal("n".into(), (*n).into());
            Body::PatchMatching { filter, edit: edit.clone(), rules: rules(), layout: 0 }
        }
        Wish::Expire(until_ms, keys) => {
            Body::Expire { until_ms: *until_ms, keys: keys.iter().map(Key::to_bytes).collect() }
        }
    }
}

fn rules() -> Rules {
    Rules { fields: [("n".to_owned(), FieldType::Integer)].into(), strict: false }
}

fn answer(reply: &Reply) -> Answer {
    match reply {
        Reply::Written { affected, .. } => (*affected, Vec::new()),
        Reply::Decided { affected, refused, .. } => {
            (*affected, refused.iter().map(|(place, refused)| (*place, refused.version)).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// A replica: it opens small stores again and again.
struct Replica {
    dir: tempfile::TempDir,
    open: Option<Machined>,
    applied: LogIndex,
}

impl Replica {
    fn new() -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let open = Some(open(dir.path()));
        Replica { dir, open, applied: 0 }
    }

    fn machined(&mut self) -> &mut Machined {
        self.open.as_mut().unwrap()
    }

    fn apply(&mut self, index: LogIndex, command: &[u8]) -> Reply {
        self.applied = index;
        self.machined().machine.apply(index, &Bytes::copy_from_slice(command)).unwrap()
    }

    /// Something of its own.
    fn bustle(&mut self, dice: &mut Dice, log: &[(Bytes, Reply)]) {
        let applied = self.applied;
        match dice.below(12) {
            0..=3 => self.machined().publish(applied),
            4..=5 => {
                self.machined().publish(applied);
                let machined = self.machined();
                machined.signals.freeze_wanted.store(true, std::sync::atomic::Ordering::SeqCst);
                machined.machine.checkpoint().unwrap();
                machined.store.seal().unwrap();
            }
            6 => drop(self.machined().store.compact(&Progress::new()).unwrap()),
            7 => self.restart(log),
            _ => {}
        }
    }

    /// Opens what is on disk and replays the log behind it: every answer is the one that was given.
    fn restart(&mut self, log: &[(Bytes, Reply)]) {
        self.open = None;
        let mut opened = open(self.dir.path());
        let durable = opened.store.durable_index();
        for (index, (command, reply)) in (1..).zip(log).filter(|(index, _)| *index > durable) {
            assert_eq!(opened.machine.apply(index, command).unwrap(), *reply, "replay of {index}");
        }
        opened.publish(self.applied);
        self.open = Some(opened);
    }

    /// What it holds, by key.
    fn held(&mut self) -> BTreeMap<Key, (LogIndex, Payload, Option<u64>)> {
        let applied = self.applied;
        self.machined().publish(applied);
        let view = self.machined().store.view();
        let segments: Vec<&dyn crate::storage::SegmentView> = view.segments().collect();
        let rows = crate::query::scan(&segments, None, &Default::default(), usize::MAX).unwrap().0;
        let read = |(segment, row): (usize, u32)| {
            let segment = segments[segment];
            let (payload, when) = (segment.payload(row).unwrap(), segment.expires_at_ms(row).unwrap());
            assert_eq!(segment.stored(row).unwrap().expires_at_ms(), when);
            (segment.key(row).unwrap(), (segment.version(row), payload, when))
        };
        rows.into_iter().map(read).collect()
    }
}

fn key(dice: &mut Dice) -> Key {
    Key::Number(dice.below(12) as u64)
}

/// One that stumbles now and then: over its own numbers, or over what is no number.
fn edit(dice: &mut Dice) -> Edit {
    let patch = Patch::new(0);
    match dice.below(6) {
        0 => patch.set("n", dice.below(20) as i64),
        1 => patch.set("n", "text"),
        2 => patch.set("n.below", 1),
        3 => patch.set("deep.a", dice.below(3) as i64).unset("deep.b"),
        4 => patch.set("deep", dice.below(3) as i64).unset("n"),
        _ => patch.set("deep.b.c", true).unset("list.x"),
    }
    .edit
}

fn wish(dice: &mut Dice, naive: &Naive) -> Wish {
    let rows = 1 + dice.below(5);
    let n = |dice: &mut Dice| dice.below(20) as i64;
    let expect = |dice: &mut Dice, key: &Key| match dice.below(4) {
        0 => Expect::Absent,
        1 => Expect::Present,
        2 => Expect::Version(1 + dice.below(50) as u64),
        _ => naive.0.get(key).map_or(Expect::Absent, |(version, ..)| Expect::Version(*version)),
    };
    let new = |dice: &mut Dice| {
        let when = dice.one_in(2).then(|| 1 + dice.below(200) as u64);
        (key(dice), n(dice), when)
    };
    match dice.below(13) {
        // Keys that are not due are in it too: a leader's clock may be ahead, and records are written anew.
        11 => {
            let until = dice.below(200) as u64;
            Wish::Expire(until, (0..12).map(Key::Number).filter(|_| dice.one_in(2)).collect())
        }
        8 | 9 => {
            let patch = |dice: &mut Dice| {
                let patch = Patch { edit: edit(dice), ..Patch::new(key(dice)) };
                match (dice.below(4), naive.0.get(&patch.key)) {
                    (0, Some((version, ..))) => patch.if_version(*version),
                    (1, _) => patch.if_version(1 + dice.below(50) as u64),
                    _ => patch,
                }
            };
            Wish::Patch((0..rows).map(|_| patch(dice)).collect())
        }
        10 => Wish::PatchEqual(n(dice), edit(dice)),
        0 => Wish::Upsert((0..rows).map(|_| new(dice)).collect()),
        1 => Wish::Delete((0..rows).map(|_| key(dice)).collect()),
        2 => Wish::DeleteEqual(n(dice)),
        _ => {
            let row = |dice: &mut Dice| {
                let new = new(dice);
                (expect(dice, &new.0), new)
            };
            Wish::If((0..rows).map(|_| row(dice)).collect())
        }
    }
}

#[test]
fn any_history_is_decided_as_the_map_decides_it_on_every_replica() {
    let (mut refusals, mut retries) = (0, 0);
    for seed in 0..10 {
        let mut dice = Dice::new(seed);
        let (mut naive, mut log, mut asked) =
            (Naive::default(), Vec::new(), Vec::<(Wish, RequestId, Answer)>::new());
        let mut replicas = [Replica::new(), Replica::new()];
        for index in 1..=120 {
            let again = (dice.one_in(5) && !asked.is_empty()).then(|| dice.below(asked.len()));
            let (wish, request, wanted) = match again {
                Some(at) => asked[at].clone(),
                None => {
                    let wish = wish(&mut dice, &naive);
                    let wanted = naive.apply(index, &wish);
                    (wish, RequestId { client: 1, serial: index }, wanted)
                }
            };
            retries += usize::from(again.is_some());
            refusals += wanted.1.len();
            // The worker's commands are nobody's requests, and are not sent again.
            let is_asked = !matches!(wish, Wish::Expire(..));
            let request = is_asked.then_some(request);
            let command = Command { collection: COLLECTION, request, body: body(&wish) };
            let bytes = command.encode().unwrap();
            assert_eq!(Command::decode(&bytes), Ok(command));
            let replies = replicas.each_mut().map(|replica| replica.apply(index, &bytes));
            assert_eq!(replies[0], replies[1], "seed {seed}, {index}: {wish:?}");
            assert_eq!(answer(&replies[0]), wanted, "seed {seed}, {index}: {wish:?}");
            let [reply, _] = replies;
            log.push((bytes, reply));
            if let Some(request) = request.filter(|_| again.is_none()) {
                asked.push((wish, request, wanted));
            }
            replicas.iter_mut().for_each(|replica| replica.bustle(&mut dice, &log));
            let until = dice.below(200) as u64;
            for replica in &mut replicas {
                let due = replica.machined().store.due(until, usize::MAX, usize::MAX).unwrap();
                assert_eq!(due, naive.due(until).iter().map(Key::to_bytes).collect::<Vec<_>>());
                let few = replica.machined().store.due(until, 2, usize::MAX).unwrap();
                assert_eq!(few.len(), due.len().min(2));
            }
        }
        let digests = replicas.each_mut().map(|replica| {
            assert_eq!(replica.held(), naive.0, "seed {seed}");
            replica.machined().store.digest()
        });
        assert_eq!(digests[0], digests[1]);
    }
    assert!(refusals > 300 && retries > 100, "too tame: {refusals} {retries}");
}

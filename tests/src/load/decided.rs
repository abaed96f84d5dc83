//! Writes of records that are named: upserts, upserts on a condition, patches; and all of them once more.
//!
//! What wants a version brings one that this client read or wrote itself, so it may be old by now: both ends are legal, and the
//! answer says which it was, record by record. A write that is sent again under its id is answered as the first time and changes
//! nothing; where the first answer came, the second is held against it.

use std::collections::BTreeMap;

use flotilla_proto::v1;
use flotilla_proto::v1::patch_request::Target;
use rand::Rng as _;
use tonic::Status;

use super::{Answer, Client, Touch, covered, of_keys, outcome, record, wire_key};
use crate::api;
use crate::history::{Act, Expect, Key, Operation, Outcome};

/// A write that names its records.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Upsert(v1::UpsertRequest),
    /// The same, as a stream of one batch.
    Stream(v1::UpsertRequest),
    Patch(v1::PatchRequest),
    /// Of what a filter matches: the record of this key.
    PatchMatching(v1::PatchRequest, Key),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    done: u64,
    conflicts: Vec<v1::Conflict>,
}

/// A write that was sent, and what it was answered, if it was.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    write: Write,
    told: Option<Told>,
}

/// What a write wants of one of its keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    key: Key,
    /// If it takes effect.
    act: Act,
    /// None: it does in any case.
    expect: Option<Expect>,
    /// That it brings.
    version: Option<u64>,
}

impl Wish {
    pub(super) fn of(key: Key, act: Act) -> Wish {
        Wish { key, act, expect: None, version: None }
    }

    /// What it did, if it was left as it was for the record that a conflict tells of.
    fn end(&self, met: Option<&v1::Conflict>) -> Touch {
        let (Some(expect), Some(met)) = (self.expect, met) else { return Touch::of(self.key, self.act) };
        let existed = met.version != 0;
        let version = existed.then_some(met.version);
        Touch { version, ..Touch::of(self.key, Act::Refused { expect, existed }) }
    }

    /// Whether a write may be refused for a record of this version, or for none.
    fn may_be_refused_for(&self, version: u64) -> bool {
        match (self.expect, self.version) {
            (None, _) => false,
            (Some(Expect::Absent), _) => version != 0,
            (Some(Expect::Present), _) => version == 0,
            (Some(Expect::Value(_)), wanted) => wanted != Some(version),
        }
    }
}

impl Client {
    /// Inserts, updates, or writes what it knows by its version.
    pub(super) async fn upsert_if(&mut self) {
        let mode = [
            v1::WriteMode::InsertOnly,
            v1::WriteMode::UpdateOnly,
            v1::WriteMode::IfVersion,
            v1::WriteMode::IfVersion,
        ][self.draw.random_range(0..4)];
        let keys = self.keys();
        if mode == v1::WriteMode::IfVersion && self.draw.random() {
            self.get(keys.first().copied()).await;
        }
        let request = self.request_id();
        let value = self.value();
        let wish = |key: &Key| {
            let (expect, version) = match mode {
                v1::WriteMode::UpdateOnly => (Expect::Present, None),
                v1::WriteMode::IfVersion => self.known_as(*key),
                _ => (Expect::Absent, None),
            };
            Wish { expect: Some(expect), version, ..Wish::of(*key, Act::UpsertIf(value, expect)) }
        };
        let wishes: Vec<Wish> = keys.iter().map(wish).collect();
        let records = wishes
            .iter()
            .map(|wish| v1::Record { version: wish.version.unwrap_or(0), ..record(wish.key, value) })
            .collect();
        let collection = self.work.collection.clone();
        let mut request =
            v1::UpsertRequest { collection, records, request, mode: mode.into(), ..Default::default() };
        self.give_time(&mut request, &keys, value);
        self.decide("upsert-if", Write::Upsert(request), wishes).await;
    }

    /// Gives records a new value and leaves all else of them as it is: those that it names, or what a filter matches.
    pub(super) async fn patch(&mut self) {
        let (keys, way) = (self.keys(), self.draw.random_range(0..8));
        let request = self.request_id();
        let value = self.value();
        let set: BTreeMap<String, v1::Value> = [("value".to_owned(), api::int(value as i64))].into();
        let wish = |key: &Key| {
            let (expect, version) = match self.known_as(*key) {
                known @ (Expect::Value(_), _) if way < 2 => known,
                _ => (Expect::Present, None),
            };
            Wish { expect: Some(expect), version, ..Wish::of(*key, Act::Patch(value, expect)) }
        };
        let mut wishes: Vec<Wish> = keys.iter().map(wish).collect();
        let patch = |wish: &Wish| v1::Patch {
            key: Some(wire_key(wish.key)),
            set: set.clone(),
            if_version: wish.version,
            ..Default::default()
        };
        let is_matching = way == 2;
        let target = if is_matching {
            // Of one record the answer tells whether it was patched.
            wishes.truncate(1);
            let filter = Some(of_keys(&keys[..1]));
            Target::Matching(v1::PatchMatching { filter, set, ..Default::default() })
        } else {
            Target::Patches(v1::PatchList { patches: wishes.iter().map(patch).collect() })
        };
        let collection = self.work.collection.clone();
        let request = v1::PatchRequest { collection, target: Some(target), request };
        let write = if is_matching { Write::PatchMatching(request, keys[0]) } else { Write::Patch(request) };
        self.decide("patch", write, wishes).await;
    }

    /// Sends the last write once more, as a client does that did not hear the answer: whatever it was, nothing happens twice.
    /// Not written down, for it is no call of its own: if it is answered, then as the first time.
    pub(super) async fn repeat(&mut self) {
        let Some(Sent { write, told }) = self.last.clone() else { return };
        let Ok((again, _)) = self.send(write.clone()).await else { return };
        if let Some(first) = told.filter(|first| *first != again) {
            self.damage(format!(
                "sent again, it was answered otherwise: {write:?}: {first:?}, then {again:?}"
            ));
        }
    }

    /// Sends a write, and writes down what came of each of its wishes.
    pub(super) async fn decide(&mut self, what: &'static str, write: Write, wishes: Vec<Wish>) {
        let invoked = self.recorder.now();
        let answer = self.send(write.clone()).await;
        let told = answer.as_ref().ok().map(|(told, _)| told.clone());
        let is_refused = answer.as_ref().is_err_and(|status| outcome(status) == Outcome::Failed);
        self.last = (!is_refused).then_some(Sent { write, told });
        let answer = match answer {
            Ok((told, coverage)) => Ok(Answer { coverage, touched: self.ends(what, &wishes, &told) }),
            Err(status) => Err((status, wishes.iter().map(|wish| wish.end(None)).collect())),
        };
        self.ended(what, invoked, None, vec![], answer);
    }

    async fn send(&self, write: Write) -> Result<(Told, Vec<v1::PartitionIndex>), Status> {
        Ok(match write {
            Write::Upsert(request) => {
                let answer = self.api().upsert(request).await?;
                (Told { done: answer.upserted, conflicts: answer.conflicts }, covered(answer.coverage))
            }
            Write::Stream(request) => {
                let answer = self.api().upsert_stream(vec![request]).await?;
                (Told { done: answer.upserted, conflicts: Vec::new() }, covered(answer.coverage))
            }
            Write::Patch(request) => {
                let answer = self.api().patch(request).await?;
                (Told { done: answer.patched, conflicts: answer.conflicts }, covered(answer.coverage))
            }
            Write::PatchMatching(request, key) => {
                let answer = self.api().patch(request).await?;
                // A filter that matches nothing names no record that it misses.
                let missed = v1::Conflict { key: Some(wire_key(key)), ..Default::default() };
                let missed = (answer.patched == 0).then_some(missed);
                let conflicts = answer.conflicts.into_iter().chain(missed).collect();
                (Told { done: answer.patched, conflicts }, covered(answer.coverage))
            }
        })
    }

    /// What a write did to each key. Each is done or refused, and refused for something else than it wanted.
    fn ends(&self, what: &str, wishes: &[Wish], told: &Told) -> Vec<Touch> {
        let met = |place: usize| told.conflicts.iter().find(|conflict| conflict.place as usize == place);
        let is_strange = |conflict: &v1::Conflict| {
            wishes.get(conflict.place as usize).is_none_or(|wish| {
                conflict.key != Some(wire_key(wish.key)) || !wish.may_be_refused_for(conflict.version)
            })
        };
        let is_off = told.done + told.conflicts.len() as u64 != wishes.len() as u64;
        if is_off || told.conflicts.iter().any(is_strange) {
            self.damage(format!("{what}: {wishes:?} cannot be answered by {told:?}"));
        }
        wishes.iter().enumerate().map(|(place, wish)| wish.end(met(place))).collect()
    }

    /// A value that no other write has, for all keys of a call: it is unique for each key, which is all that a checker wants.
    pub(super) fn value(&self) -> u64 {
        self.id << 32 | self.serial
    }

    /// What is to be expected of a key by what is known of it, and the version that says so.
    fn known_as(&self, key: Key) -> (Expect, Option<u64>) {
        match self.known.get(&key) {
            Some((value, version)) => (Expect::Value(*value), Some(*version)),
            None => (Expect::Absent, None),
        }
    }

    /// Remembers the versions of what was written and seen, where the partition is known whose log they count in.
    pub(super) fn remember(&mut self, operations: &[Operation]) {
        for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Done) {
            let Some(at) = operation.position else { continue };
            let (value, version) = match operation.act {
                Act::Read(value, _) => (value, operation.version),
                act => (act.written(), Some(at.index)),
            };
            match (value, version, operation.act) {
                (Some(value), Some(version), _) => {
                    self.known.insert(operation.key, (value, version));
                }
                (None, _, Act::Refused { existed: true, .. }) => {}
                (None, ..) => drop(self.known.remove(&operation.key)),
                (Some(_), None, _) => {}
            }
        }
    }
}

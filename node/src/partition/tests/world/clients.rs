//! The clients of the small world: what they write, send again, and believe.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::record::{Key, Record, Value};

use super::super::super::Write;
use super::super::super::admit::{admit, due};
use super::{KEYS, World, expires_at_ms, key, record};
use crate::machine::command::{Body, Expect, RequestId};
use crate::machine::{Refused, Rejection, Reply};
use crate::worker::expiry;

/// A write that a client sends until it is acknowledged as a whole.
#[derive(Clone)]
pub struct Wish {
    request: RequestId,
    records: Vec<(Key, i64)>,
    gone: Vec<Key>,
    /// Below it, everything goes.
    below: Option<i64>,
    /// What the records expect.
    expect: Option<Expect>,
    /// Keys whose fate is decided.
    done: BTreeSet<Key>,
    /// Of those, the ones whose records were refused.
    left: BTreeSet<Key>,
}

impl World {
    pub(super) fn write(&self) {
        let mut wish = Wish {
            request: RequestId { client: 1 + self.below(3), serial: 0 },
            records: vec![],
            gone: vec![],
            below: None,
            expect: None,
            done: BTreeSet::new(),
            left: BTreeSet::new(),
        };
        wish.request.serial = {
            let mut serials = self.serials.lock();
            *serials += 1;
            *serials
        };
        let count = 1 + self.below(6);
        match self.below(8) {
            0 => wish.below = Some(self.below(120) as i64),
            1 | 2 => wish.gone = (0..count).map(|_| key(self.below(KEYS))).collect(),
            _ => {
                let one = |_| (key(self.below(KEYS)), self.below(1_000) as i64);
                let records: BTreeMap<Key, i64> = (0..count).map(one).collect();
                wish.records = records.into_iter().collect();
                wish.expect = [None, Some(Expect::Absent), Some(Expect::Present)][self.below(3) as usize];
            }
        }
        self.grant(wish);
    }

    /// A leader finds that it is late: what may be written at its partition and is due goes, at once.
    pub(super) fn expire(&self) {
        let (at, now_ms) = (self.below(3) as usize, self.below(1_000));
        let shelf = &mut self.shelves.lock()[at];
        let Some(body) = expiry::due(&shelf.running().store, now_ms, 4).unwrap() else { return };
        let Body::Expire { keys, .. } = &body else { panic!("{body:?}") };
        let keys: Vec<Key> = keys.iter().filter_map(|key| Key::from_bytes(key)).collect();
        let reply = shelf.propose(None, body);
        let Reply::Written { affected, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(affected, keys.len() as u64, "what is due goes");
        for key in keys {
            let n = self.model.lock().remove(&key);
            let when = n.and_then(expires_at_ms).expect("it was there, and was to go");
            assert!(when <= now_ms, "{key} went before its time");
        }
    }

    /// Those that wait are sent again.
    pub fn nag(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(|wish| self.grant(wish));
    }

    pub fn is_anyone_waiting(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    /// A client did not hear the answer and sends a whole request again: nothing may change.
    pub(super) fn write_again(&self) {
        let granted = self.granted.lock();
        if granted.is_empty() {
            return;
        }
        let last = granted.len();
        let wish = granted[last - 1 - self.below(last.min(40) as u64) as usize].clone();
        drop(granted);
        let everything: BTreeSet<Key> = (0..KEYS).map(key).collect();
        self.grant(Wish { done: everything, ..wish });
    }

    /// Sends a wish by the map of this moment, or an older one; what is refused waits.
    fn grant(&self, mut wish: Wish) {
        let caller = self.caller();
        for at in 0..3 {
            if !self.send(&caller, at, &mut wish) {
                self.waiting.lock().push(wish);
                return;
            }
        }
        if self.one_in(10) {
            // The answer was lost.
            self.waiting.lock().push(wish);
        } else {
            self.granted.lock().push(wish);
        }
    }

    /// The part of one partition. False if it was refused.
    fn send(&self, caller: &PlacementMap, at: usize, wish: &mut Wish) -> bool {
        let newest = self.map.lock().clone();
        let shelf = &mut self.shelves.lock()[at];
        let placement = &caller.collections[0];
        let area = placement.area(shelf.id);
        let is_here = |key: &Key| area.contains(&key.to_bytes());
        let write = if let Some(below) = wish.below {
            let bounds = Bounds { lt: Some(Value::Int(below)), ..Bounds::default() };
            Write::DeleteFilter(Filter::Range("n".into(), bounds))
        } else if wish.records.is_empty() {
            let keys: Vec<Key> = wish.gone.iter().filter(|key| is_here(key)).cloned().collect();
            if keys.is_empty() {
                return true;
            }
            Write::Delete(keys)
        } else {
            let here = wish.records.iter().filter(|(key, _)| is_here(key));
            let record = |(key, n): &(Key, i64)| record(key.clone(), *n);
            let records: Vec<Record> = here.map(record).collect();
            if records.is_empty() {
                return true;
            }
            match wish.expect {
                None => Write::Upsert(records),
                Some(expect) => Write::UpsertIf(records.into_iter().map(|record| (expect, record)).collect()),
            }
        };
        let Ok(owned) = shelf.owned(caller, &newest) else { return false };
        if let Some(step) = due(&shelf.ledger().moves(), &owned) {
            shelf.propose(None, Body::Move(step));
        }
        let moves = shelf.ledger().moves();
        let Ok(body) = admit(&shelf.spec, &moves, &owned, write) else { return false };
        match shelf.propose(Some(wish.request), body) {
            Reply::Written { affected, .. } => {
                self.believe(wish, &is_here, affected, &[]);
                true
            }
            Reply::Decided { affected, refused, .. } => {
                self.believe(wish, &is_here, affected, &refused);
                true
            }
            Reply::Rejected(Rejection::Moved) => false,
            other => panic!("{other:?}"),
        }
    }

    /// The partition says that the wish is done, as far as its keys go.
    fn believe(
        &self,
        wish: &mut Wish,
        is_here: &dyn Fn(&Key) -> bool,
        affected: u64,
        refused: &[(u32, Refused)],
    ) {
        let mut model = self.model.lock();
        for (key, n) in wish.records.iter().filter(|(key, _)| is_here(key)) {
            if !wish.done.insert(key.clone()) {
                continue;
            }
            let present = model.contains_key(key).then_some(1);
            match wish.expect.is_none_or(|expect| expect.holds(present)) {
                true => drop(model.insert(key.clone(), *n)),
                false => drop(wish.left.insert(key.clone())),
            }
        }
        let named = wish.records.iter().filter(|(key, _)| is_here(key)).count();
        if named > 0 {
            let left: Vec<&Key> = wish.left.iter().filter(|key| is_here(key)).collect();
            let told: BTreeSet<Key> = refused.iter().filter_map(|(_, r)| Key::from_bytes(&r.key)).collect();
            assert_eq!(told.iter().collect::<Vec<_>>(), left, "the records that were refused");
            assert_eq!(affected, (named - left.len()) as u64, "all others were written");
        }
        for key in wish.gone.iter().filter(|key| is_here(key)) {
            if wish.done.insert(key.clone()) {
                model.remove(key);
            }
        }
        if let Some(below) = wish.below {
            for key in (0..KEYS).map(key).filter(|key| is_here(key)) {
                if wish.done.insert(key.clone()) && model.get(&key).is_some_and(|n| *n < below) {
                    model.remove(&key);
                }
            }
        }
    }
}

//! Writes that are decided record by record: each is done or refused by what its key has where the command stands in the log.
//!
//! The records of one command are decided in order, so that one sees what those before it did. What is decided depends on the
//! command and on the rows that are here, and on nothing else: every replica decides alike.
//!
//! **While slots move** a decision is about the newest row of its key, or is not made:
//!
//! * A key whose rows are only coming is *closed* until the area is whole and taken: its rows are half a copy before, and
//!   the giver's to decide on. [`PartitionMachine::admit`] refuses the whole command as moved, as it refuses a plain write.
//! * A key that is leaving is decided here until its area is frozen: all its rows are here, and what is written is touched and
//!   so shipped. From then on it is closed, and stays so once it is given away, as long as leftovers lie here and after.
//! * No other key has rows elsewhere. Rows that a reader must not be shown (*strange* ones) are either closed, or gained or
//!   leaving, and then they are the newest there are.
//!
//! **Sent again.** What the window remembers of a request is whom it refused, by key and by which of the command's records of
//! that key. The rest was done. So a partition answers for just the records that it is asked about, although the answer it
//! remembers may be about more of them, of which some have moved away since. A decided request writes and refuses as many
//! records as it names.
//!
//! **Versions** are log indexes of one partition: a record that moves gets a new one, and a condition on the old one fails; unless
//! the two numbers happen to be equal, which nothing here can tell. Who reads, waits for a move to end, and then writes on
//! a condition takes that chance.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::LogIndex;

use super::{Admitted, PartitionMachine};
use crate::machine::command::{Expect, RequestId};
use crate::machine::dedup::{Place, Refusals};
use crate::machine::{Refused, Rejection, Reply};
use crate::storage::{Fault, StoredRow};

/// What a command wants of a key.
pub(super) struct Item<T> {
    /// Its place in the command.
    place: u32,
    key: Vec<u8>,
    /// Which of the command's items of this key.
    nth: u32,
    /// What is wanted.
    pub wish: T,
}

impl<T> Item<T> {
    /// It is not done, because of what is there.
    pub fn refused(&self, present: Option<LogIndex>, reason: String) -> (u32, Refused) {
        let (key, version) = (self.key.clone(), present.unwrap_or(0));
        (self.place, Refused { key, nth: self.nth, version, reason })
    }

    /// The key, as bytes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The wishes of a command, in order.
fn items<T>(wishes: impl Iterator<Item = (Vec<u8>, T)>) -> Vec<Item<T>> {
    let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let item = |(place, (key, wish)): (u32, (Vec<u8>, T))| {
        let times = seen.entry(key.clone()).or_default();
        let nth = *times;
        *times += 1;
        Item { place, key, nth, wish }
    };
    (0..).zip(wishes).map(item).collect()
}

/// What was not done of a command: each with its place in it.
pub(super) type Left = Vec<(u32, Refused)>;

impl PartitionMachine {
    /// Writes each row if what it expects is so.
    pub(super) fn upsert_if(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        rows: Vec<(Expect, StoredRow)>,
    ) -> Result<Reply, Fault> {
        let wishes = rows.into_iter().map(|(expect, row)| (row.key.clone(), (expect, row)));
        self.decided(index, request, wishes, |machine, items| {
            let (mut rows, mut left) = (Vec::new(), Vec::new());
            let mut written = BTreeSet::new();
            for item in items {
                let present = match written.contains(item.key()) {
                    true => Some(index),
                    false => machine.store.version_of(item.key())?,
                };
                let expect = item.wish.0;
                if expect.holds(present) {
                    written.insert(item.key().to_vec());
                    rows.push(item.wish.1);
                } else {
                    left.push(item.refused(present, expect.unmet(present)));
                }
            }
            machine.write(index, rows)?;
            Ok(left)
        })
    }

    /// Stores rows whose keys may be written here.
    pub(super) fn write(&mut self, index: LogIndex, rows: Vec<StoredRow>) -> Result<u64, Fault> {
        self.touch(index, rows.iter().map(|row| row.key.as_slice()));
        self.store.upsert(index, rows)
    }

    /// Has each wish that is new decided, window by window, and answers for all of them.
    pub(super) fn decided<T>(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        wishes: impl Iterator<Item = (Vec<u8>, T)>,
        mut decide: impl FnMut(&mut PartitionMachine, Vec<Item<T>>) -> Result<Left, Fault>,
    ) -> Result<Reply, Fault> {
        let admitted = match self.admit(request, items(wishes), |item: &Item<T>| item.key.clone()) {
            Ok(admitted) => admitted,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        let Admitted { fresh, again, seen_at, .. } = admitted;
        let (mut affected, mut refused) = match self.recall(request, &again) {
            Ok(recalled) => recalled,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        let log_index = if fresh.is_empty() { seen_at } else { index };
        for (place, items) in fresh {
            let named = items.len() as u64;
            let left = decide(self, items)?;
            let done = named.saturating_sub(left.len() as u64);
            affected += done;
            let named = left.iter().map(|(_, refused)| refused.clone()).collect();
            self.remember(place, request, index, done, Refusals { named, unnamed: 0 });
            refused.extend(left);
        }
        refused.sort_unstable_by_key(|(place, _)| *place);
        Ok(Reply::Decided { affected, log_index, refused, unnamed: 0 })
    }

    /// Remembers what a request was answered by one window.
    pub(super) fn remember(
        &mut self,
        place: Place,
        request: Option<RequestId>,
        index: LogIndex,
        done: u64,
        refusals: Refusals,
    ) {
        let Some(request) = request else { return };
        let mut dedup = self.ledger.dedup.lock();
        dedup.record(place, request, index, done);
        dedup.refuse(place, request, index, refusals);
    }

    /// What windows that have seen the request answered for these items: how many were done, and those refused.
    fn recall<T>(
        &self,
        request: Option<RequestId>,
        again: &[(Place, Vec<Item<T>>)],
    ) -> Result<(u64, Left), Rejection> {
        let (mut done, mut left) = (0, Vec::new());
        let Some(request) = request else { return Ok((0, left)) };
        let dedup = self.ledger.dedup.lock();
        for (place, items) in again {
            let Some(refused) = dedup.refused(*place, request) else {
                return Err(Rejection::AnswerForgotten { serial: request.serial });
            };
            let refused: BTreeMap<(&[u8], u32), &Refused> = refused
                .named
                .iter()
                .map(|refused| ((refused.key.as_slice(), refused.nth), refused))
                .collect();
            for item in items {
                match refused.get(&(item.key.as_slice(), item.nth)) {
                    Some(refused) => left.push((item.place, (*refused).clone())),
                    None => done += 1,
                }
            }
        }
        Ok((done, left))
    }
}

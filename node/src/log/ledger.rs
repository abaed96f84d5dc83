//! What a lane's records say up to a position: the marks of each group and where they stand, and which segments
//! hold live entries.
//!
//! Recovery and the writer feed the same ledger with the same records, so both agree on what a segment still
//! owes. It speaks of what is *written*; what is merely queued lives in `group`.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::GroupId;
use super::record::{Header, Kind};

/// A small value of a group and the segment its newest record stands in.
#[derive(Clone, Debug)]
pub struct Mark {
    pub index: u64,
    pub body: Bytes,
    pub segment: u32,
}

/// The marks of a group.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub vote: Option<Mark>,
    pub committed: Option<Mark>,
    pub purged: Option<Mark>,
}

/// Entries of one group in one segment: no live one lies outside `first..=last`.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub first: u64,
    pub last: u64,
    /// Bytes of all records counted in, dead ones too.
    pub bytes: u64,
}

/// The written state of a lane.
#[derive(Debug, Default)]
pub struct Ledger {
    pub marks: HashMap<GroupId, Marks>,
    held: BTreeMap<u32, HashMap<GroupId, Held>>,
    /// Segments below this number were given up.
    pub reclaimed: u32,
    /// Groups removed since [`Ledger::forget_removed`].
    pub removed: HashSet<GroupId>,
}

impl Ledger {
    /// Takes in the next record, written in `segment`.
    pub fn apply(&mut self, header: &Header, body: &Bytes, segment: u32) {
        let (group, index) = (header.group, header.index);
        let mark = || Some(Mark { index, body: body.clone(), segment });
        match header.kind {
            Kind::Entry | Kind::Moved => self.hold(header, segment),
            Kind::Vote => self.marks.entry(group).or_default().vote = mark(),
            Kind::Committed => self.marks.entry(group).or_default().committed = mark(),
            Kind::Truncate => self.narrow(group, |held| {
                held.last = held.last.min(index);
                held.first <= index
            }),
            Kind::TruncateAll => self.narrow(group, |_| false),
            Kind::Purge => {
                self.marks.entry(group).or_default().purged = mark();
                self.narrow(group, |held| {
                    held.first = held.first.max(index.saturating_add(1));
                    held.last > index
                });
            }
            Kind::Removed => {
                self.marks.remove(&group);
                self.narrow(group, |_| false);
                self.removed.insert(group);
            }
            Kind::Reclaimed => {
                self.reclaimed = self.reclaimed.max(u32::try_from(index).unwrap_or(u32::MAX));
            }
            Kind::Durable => {}
        }
    }

    fn hold(&mut self, header: &Header, segment: u32) {
        let (index, bytes) = (header.index, header.record_len() as u64);
        let marks = self.marks.entry(header.group).or_default();
        if marks.purged.as_ref().is_some_and(|mark| index <= mark.index) {
            return;
        }
        let held = self.held.entry(segment).or_default().entry(header.group);
        let held = held.or_insert(Held { first: index, last: index, bytes: 0 });
        held.first = held.first.min(index);
        held.last = held.last.max(index);
        held.bytes += bytes;
    }

    fn narrow(&mut self, group: GroupId, mut keep: impl FnMut(&mut Held) -> bool) {
        for groups in self.held.values_mut() {
            if groups.get_mut(&group).is_some_and(|held| !keep(held)) {
                groups.remove(&group);
            }
        }
    }

    /// Live entries in a segment, by group.
    pub fn held(&self, segment: u32) -> impl Iterator<Item = (GroupId, Held)> + '_ {
        self.held.get(&segment).into_iter().flatten().map(|(group, held)| (*group, *held))
    }

    /// The marks whose newest record stands in a segment.
    pub fn marks_in(&self, segment: u32) -> Vec<(GroupId, Kind, u64, Bytes)> {
        let mut found = Vec::new();
        for (group, marks) in &self.marks {
            let all = [
                (Kind::Vote, &marks.vote),
                (Kind::Purge, &marks.purged),
                (Kind::Committed, &marks.committed),
            ];
            for (kind, mark) in all {
                if let Some(mark) = mark.as_ref().filter(|mark| mark.segment == segment) {
                    found.push((*group, kind, mark.index, mark.body.clone()));
                }
            }
        }
        found.sort_by_key(|(group, kind, ..)| (*group, *kind as u8));
        found
    }

    /// Drops what is known of a segment that is gone.
    pub fn forget(&mut self, segment: u32) {
        self.held.remove(&segment);
    }

    /// A damage concerns all groups: only those removed from here on are free of it.
    pub fn forget_removed(&mut self) {
        self.removed.clear();
    }
}

//! What one group's log holds as its callers see it: index of entries, marks, and the newest bodies.
//!
//! An appended entry is here at once, *pending* until the writer has made it durable and tells its place. A
//! pending entry carries a *ticket*, unique in the lane, so that the place of an entry that was truncated and replaced
//! meanwhile is not taken for its successor's. Bodies of the newest entries stand in `recent`, without gap up
//! to the last entry; pending ones are always among them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{GroupState, LogEntry};

/// Where an entry stands: in a segment, or nowhere yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    segment: u32,
    a: u32,
    b: u32,
}

const PENDING: u32 = u32::MAX;
const HOLE: u32 = u32::MAX - 1;

/// How far an entry may stand from the others while the log is replayed: more than one segment can hold.
const AHEAD_MAX: u64 = 1 << 25;

/// Numbers of segments stay below this.
pub const SEGMENT_NUMBER_MAX: u32 = u32::MAX - 2;

/// A readable place: segment, offset of the record, length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub body_len: u32,
}

impl Slot {
    /// An entry that replay knows to exist but has not met (again) yet.
    pub const MISSING: Slot = Slot { segment: HOLE, a: 0, b: 0 };

    fn pending(ticket: u64) -> Slot {
        Slot { segment: PENDING, a: ticket as u32, b: (ticket >> 32) as u32 }
    }

    /// An entry in a segment.
    pub fn at(place: Place) -> Slot {
        Slot { segment: place.segment, a: place.offset, b: place.body_len }
    }

    fn place(self) -> Option<Place> {
        let Slot { segment, a: offset, b: body_len } = self;
        (segment < HOLE).then_some(Place { segment, offset, body_len })
    }
}

/// A body in memory.
#[derive(Clone, Debug)]
struct Recent {
    ticket: u64,
    body: Bytes,
}

/// Memory counted for a body.
pub fn cost(body: &Bytes) -> usize {
    body.len() + size_of::<Recent>() + 16
}

/// Where a read finds an entry.
pub enum Source {
    Memory(Bytes),
    Disk(Place),
}

/// One group's log in memory.
#[derive(Debug, Default)]
pub struct Group {
    /// Which life of the group this is; a handle of an earlier one is refused.
    pub life: u64,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    base: u64,
    slots: VecDeque<Slot>,
    recent: VecDeque<Recent>,
    /// Why the replayed records of this group do not fit together.
    pub misfit: Option<String>,
}

impl Group {
    /// See [`GroupState`].
    pub fn state(&self) -> GroupState {
        let first = if self.slots.is_empty() { self.expected().unwrap_or(0) } else { self.base };
        GroupState { first_index: first, last_index: self.last(), purged: self.purged.clone() }
    }

    /// Index of the last entry.
    pub fn last(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.base + self.slots.len() as u64 - 1)
    }

    /// The purged index.
    pub fn purged_index(&self) -> Option<u64> {
        self.purged.as_ref().map(|(index, _)| *index)
    }

    /// The index the next entry must have; `None`: any.
    pub fn expected(&self) -> Option<u64> {
        self.last().or(self.purged_index()).map(|index| index.saturating_add(1))
    }

    /// Adds the next entry, pending under `ticket`. The caller has checked the index against [`Group::expected`].
    pub fn append(&mut self, entry: &LogEntry, ticket: u64) {
        if self.slots.is_empty() {
            self.base = entry.index;
        }
        self.slots.push_back(Slot::pending(ticket));
        self.recent.push_back(Recent { ticket, body: entry.body.clone() });
    }

    /// Tells the place of a pending entry, unless it has been replaced or dropped.
    pub fn settle(&mut self, index: u64, ticket: u64, place: Place) {
        if let Some(slot) = self.slot_mut(index).filter(|slot| **slot == Slot::pending(ticket)) {
            *slot = Slot::at(place);
        }
    }

    /// Tells the new place of an entry that was written again.
    pub fn relocate(&mut self, index: u64, from: Place, to: Place) {
        if let Some(slot) = self.slot_mut(index).filter(|slot| **slot == Slot::at(from)) {
            *slot = Slot::at(to);
        }
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }

    /// Whether the entry, and with it all before it, is on the disk: in the log, or below what was purged.
    pub fn is_durable(&self, index: u64) -> bool {
        let is_purged = self.purged_index().is_some_and(|purged| index <= purged);
        let at = index.checked_sub(self.base).and_then(|at| usize::try_from(at).ok());
        is_purged || at.and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.place().is_some())
    }

    /// Where to read an entry.
    pub fn source(&self, index: u64) -> Option<Source> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        let slot = self.slots.get(at)?;
        let from_end = self.slots.len() - at;
        if from_end <= self.recent.len() {
            return Some(Source::Memory(self.recent[self.recent.len() - from_end].body.clone()));
        }
        slot.place().map(Source::Disk)
    }

    /// Drops entries after `keep` (all, if `None`). Returns the memory freed.
    pub fn truncate(&mut self, keep: Option<u64>) -> usize {
        let kept = match keep {
            Some(index) if index >= self.base => (index - self.base).saturating_add(1),
            _ => 0,
        };
        let dropped = self.slots.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
        self.slots.truncate(self.slots.len() - dropped);
        let cut = self.recent.len().saturating_sub(dropped);
        self.recent.drain(cut..).map(|recent| cost(&recent.body)).sum()
    }

    /// Drops entries up to `index` and remembers `id` for it. Returns the memory freed.
    pub fn purge(&mut self, index: u64, id: Bytes) -> usize {
        self.purged = Some((index, id));
        if self.slots.is_empty() || index < self.base {
            return 0;
        }
        let dropped = usize::try_from((index - self.base).saturating_add(1)).unwrap_or(usize::MAX);
        let dropped = dropped.min(self.slots.len());
        self.slots.drain(..dropped);
        self.base += dropped as u64;
        let stay = self.recent.len().min(self.slots.len());
        let cut = self.recent.len() - stay;
        self.recent.drain(..cut).map(|recent| cost(&recent.body)).sum()
    }

    /// Memory of all bodies.
    pub fn recent_cost(&self) -> usize {
        self.recent.iter().map(|recent| cost(&recent.body)).sum()
    }

    /// Whether the body with this ticket is in memory.
    pub fn has_recent(&self, ticket: u64) -> bool {
        self.recent.front().is_some_and(|first| first.ticket <= ticket)
            && self.recent.back().is_some_and(|last| ticket <= last.ticket)
    }

    /// Drops the oldest body if it is the one with this ticket. `Err`: it is pending and must stay.
    pub fn evict(&mut self, ticket: u64) -> Result<usize, ()> {
        let Some(first) = self.recent.front().filter(|first| first.ticket == ticket) else { return Ok(0) };
        let slot = self.slots[self.slots.len() - self.recent.len()];
        if slot.segment == PENDING {
            return Err(());
        }
        let freed = cost(&first.body);
        self.recent.pop_front();
        Ok(freed)
    }

    /// Replays the next entry; [`Slot::MISSING`] if its body was damaged.
    pub fn replay_entry(&mut self, index: u64, slot: Slot) {
        match (self.last(), self.purged_index()) {
            (_, Some(purged)) if index <= purged => {}
            (Some(last), _) if index <= last => self.misfit(format!("entry {index} follows {last}")),
            // Those between may have been moved: then they come later, and if not, they are missing at the end.
            (Some(last), _) => match self.stretch(index) {
                true => self.slots.push_back(slot),
                false => self.misfit(format!("entry {index} follows {last}")),
            },
            // Not necessarily the one after the purge: those between may stand in segments that went because of a
            // later purge, still to come.
            (None, _) => {
                self.base = index;
                self.slots.push_back(slot);
            }
        }
    }

    /// Makes room for `index` as the next entry: what is not there yet is missing so far. False if that is too much.
    fn stretch(&mut self, index: u64) -> bool {
        let end = self.base + self.slots.len() as u64;
        if index < end || index - end > AHEAD_MAX {
            return false;
        }
        self.slots.extend(std::iter::repeat_n(Slot::MISSING, (index - end) as usize));
        true
    }

    /// Replays an entry written again. Those around it may come later, or have been purged.
    pub fn replay_moved(&mut self, index: u64, slot: Slot) {
        if self.purged_index().is_some_and(|purged| index <= purged) {
            return;
        }
        if self.slots.is_empty() {
            self.base = index;
        }
        if index < self.base {
            if self.base - index > AHEAD_MAX {
                return self.misfit(format!("entry {index} was moved, the log begins at {}", self.base));
            }
            while self.base > index {
                self.slots.push_front(Slot::MISSING);
                self.base -= 1;
            }
        }
        match index - self.base {
            at if at < self.slots.len() as u64 => self.slots[at as usize] = slot,
            _ if self.stretch(index) => self.slots.push_back(slot),
            _ => self.misfit(format!("entry {index} was moved, the log ends at {:?}", self.last())),
        }
    }

    fn misfit(&mut self, reason: String) {
        self.misfit.get_or_insert(reason);
    }

    /// Looks at the whole after replay: no entry may be missing.
    pub fn check(&mut self) {
        if let Some(at) = self.slots.iter().position(|slot| *slot == Slot::MISSING) {
            self.misfit(format!("entry {} is missing", self.base + at as u64));
        }
        if let (Some(purged), false) = (self.purged_index(), self.slots.is_empty())
            && self.base != purged.saturating_add(1)
        {
            self.misfit(format!("entries between the purge up to {purged} and {} are missing", self.base));
        }
    }
}

//! What a partition's machine knows of slots that come and go.
//!
//! ```text
//! A gives: Begin ─> (Shipped)* ─> Freeze ─> HandOver ─> meta commits ─> End{given} ─> Drop* ─> at rest
//! B takes: BeginImport ─> Import* ─> (the last: complete) ─> meta commits ─> EndImport{taken} ─> at rest
//! ```
//!
//! Every step is a command, so every replica knows the same and a restart loses nothing. Each may come twice, late, or from
//! a leader that no longer is one:
//!
//! * **Fence.** Whoever drives a move begins with `Begin` in A's log; its log index is the driver's fence. B takes imports
//!   of the newest fence only, and within one fence each sequence number once. So two drivers can never mix: what B took
//!   is a run of one driver's imports, then a run of the next one's, which began where B then stood.
//! * **Touched.** From `Begin` on, A keeps the keys written in the area with the log index of their last write, until B
//!   has them (`Shipped`). Beyond a bound it gives up: the move begins anew, under the same id.
//! * **Freeze** refuses writes of the area in A; **HandOver** refuses reads of it too, because from then on the meta group
//!   may give the area to B at any moment, and B takes writes that A does not see.
//! * **The map decides.** Whether a move was committed or aborted is read from the map alone, at the epoch at which the move
//!   began or later: if the partition no longer (A), or now (B), owns the area, it was committed.
//! * **Given away is remembered.** A never again takes a write or shows a row of what it gave, whatever an old map says,
//!   until it gets it back by a move.
//!
//! What it does not do: it reads no clock, map or row; [`crate::worker::slots`] drives it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::area::Area;
use flotilla_proto::ids::{Epoch, LogIndex, PartitionId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::dedup::{Carried, CarriedTold, Dedup};
use super::replaces::Seen;
use crate::storage::Presence;
use crate::storage::row::StoredRow;

/// A step of a move: see the module.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// A: the area is about to go to `to`. Again by each new driver: the log index is its fence.
    Begin {
        /// The move.
        id: u64,
        /// Who gets it.
        to: PartitionId,
        /// What.
        area: Area,
        /// Of the map that says so.
        epoch: Epoch,
        /// Touched keys that are kept, at most.
        touched_max: u32,
    },
    /// A: B has every change up to this log index.
    Shipped {
        /// The move.
        id: u64,
        /// The log index.
        upto: LogIndex,
    },
    /// A: no more writes of the area.
    Freeze {
        /// The move.
        id: u64,
    },
    /// A: no more reads either; the meta group may commit.
    HandOver {
        /// The move.
        id: u64,
    },
    /// A: the map has decided.
    End {
        /// The move.
        id: u64,
        /// Whether it was committed.
        given: bool,
    },
    /// B: an area is about to come.
    BeginImport {
        /// The move.
        id: u64,
        /// Who gives it.
        from: PartitionId,
        /// What.
        area: Area,
        /// Of the map that says so.
        epoch: Epoch,
        /// Where A began to keep what is touched; another one than before voids what came so far.
        begun: LogIndex,
        /// The driver's fence.
        fence: LogIndex,
    },
    /// B: rows that come, and keys that are gone.
    Import(Import),
    /// B: the map has decided.
    EndImport {
        /// The move.
        id: u64,
        /// Whether it was committed.
        taken: bool,
    },
    /// Deletes rows of an area that is not the partition's any more, or never was.
    Drop {
        /// The move.
        id: u64,
        /// The rows' keys.
        keys: Vec<Vec<u8>>,
        /// Whether none are left then.
        is_last: bool,
    },
    /// B: an import that brings refusals too.
    ImportTold(Import, Vec<CarriedTold>),
}

/// A part of what comes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// The move.
    pub id: u64,
    /// The driver's fence.
    pub fence: LogIndex,
    /// Counts the driver's imports, from 1.
    pub sequence: u64,
    /// Rows as they are in A.
    pub rows: Vec<StoredRow>,
    /// Keys that are not in A.
    pub gone: Vec<Vec<u8>>,
    /// Replies that A gave.
    pub carried: Vec<Carried>,
    /// Where B stands with it.
    pub cursor: Cursor,
    /// What A refused of the requests that it answered; behind the replies.
    #[serde(skip)]
    pub told: Vec<CarriedTold>,
}

impl Import {
    /// Its step.
    pub fn into_step(mut self) -> Step {
        match std::mem::take(&mut self.told) {
            told if told.is_empty() => Step::Import(self),
            told => Step::ImportTold(self, told),
        }
    }
}

/// How much of an area has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// Rows up to this key, as they were at some time; empty: none.
    Copy(Vec<u8>),
    /// All rows, with every change up to this log index of A.
    Tail(LogIndex),
    /// Everything that there will be.
    Complete,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor::Copy(Vec::new())
    }
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepRejection {
    /// Another move, or the remains of one, must be dealt with first.
    Busy,
    /// A newer driver is at work.
    Superseded,
    /// There is no such move here (any more).
    Ended,
    /// It does not follow on what came before.
    OutOfOrder,
    /// Too many keys were touched: begin anew.
    Overflowed,
}

/// A partition's moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    /// What it gives away now.
    pub outgoing: Option<Outgoing>,
    /// What it gets now.
    pub incoming: Option<Incoming>,
    /// What it holds and must not: (move, area).
    pub dropping: Vec<(u64, Area)>,
    /// What it got by moves, and has.
    pub gained: Area,
    /// What it gave by moves, and has not.
    pub given: Area,
    /// Grows with each change of who may write what.
    pub layout: u64,
}

/// An area that goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The move.
    pub id: u64,
    /// Who gets it.
    pub to: PartitionId,
    /// What.
    pub area: Area,
    /// The map that said so last.
    pub epoch: Epoch,
    /// Since when touched keys are kept.
    pub begun: LogIndex,
    /// The newest driver's fence.
    pub fence: LogIndex,
    /// Since when writes are refused.
    pub frozen: Option<LogIndex>,
    /// Whether reads are refused.
    pub is_handed_over: bool,
    /// Touched keys, at most.
    pub touched_max: u32,
    /// Whether there were more.
    pub is_overflowed: bool,
}

/// An area that comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incoming {
    /// The move.
    pub id: u64,
    /// Who gives it.
    pub from: PartitionId,
    /// What.
    pub area: Area,
    /// The map that said so last.
    pub epoch: Epoch,
    /// See [`Step::BeginImport`].
    pub begun: LogIndex,
    /// The newest driver's fence.
    pub fence: LogIndex,
    /// That driver's last import.
    pub sequence: u64,
    /// How far it is.
    pub cursor: Cursor,
    /// Rows that came, repeated ones included.
    pub rows: u64,
}

impl Moves {
    /// What this says about the rows that are here.
    pub fn presence(&self) -> Presence {
        let mut dropping = Area::Empty;
        self.dropping.iter().for_each(|(_, area)| dropping = dropping.or(area));
        let outgoing = self.outgoing.as_ref();
        let incoming = self.incoming.as_ref().map_or(&Area::Empty, |i| &i.area);
        let incomplete = self.incoming.as_ref().filter(|i| i.cursor != Cursor::Complete);
        let handed = outgoing.filter(|o| o.is_handed_over).map_or(&Area::Empty, |o| &o.area);
        let frozen = outgoing.filter(|o| o.frozen.is_some()).map_or(&Area::Empty, |o| &o.area);
        let leaving = outgoing.map_or(&Area::Empty, |o| &o.area);
        Presence {
            strange: self.gained.or(leaving).or(&dropping).or(incoming),
            absent: self.given.or(handed).or(incomplete.map_or(&Area::Empty, |i| &i.area)),
            closed: self.given.or(frozen).or(incoming).or(&dropping),
            frozen: frozen.clone(),
            layout: self.layout,
            generation: 0,
        }
    }

    /// Whether nothing is under way and nothing is left to do.
    pub fn is_settled(&self) -> bool {
        self.outgoing.is_none() && self.incoming.is_none() && self.dropping.is_empty()
    }

    fn leaving(&mut self, id: u64) -> Result<&mut Outgoing, StepRejection> {
        self.outgoing.as_mut().filter(|o| o.id == id).ok_or(StepRejection::Ended)
    }

    fn is_dropping(&self, area: &Area) -> bool {
        self.dropping.iter().any(|(_, dropped)| dropped.overlaps(area))
    }

    /// [`Step::Begin`] at `index`. True if touched keys are kept from here on, and those before are void.
    pub(super) fn begin(&mut self, index: LogIndex, new: Outgoing) -> Result<bool, StepRejection> {
        if let Some(known) = &mut self.outgoing {
            if known.id != new.id {
                return Err(StepRejection::Busy);
            }
            known.fence = index;
            known.epoch = known.epoch.max(new.epoch);
            let is_new = known.is_overflowed;
            if is_new {
                (known.begun, known.is_overflowed) = (index, false);
            }
            return Ok(is_new);
        }
        if self.given.overlaps(&new.area) {
            return Err(StepRejection::Ended);
        }
        let comes = self.incoming.as_ref().is_some_and(|incoming| incoming.area.overlaps(&new.area));
        if comes || self.is_dropping(&new.area) {
            return Err(StepRejection::Busy);
        }
        self.outgoing = Some(Outgoing { begun: index, fence: index, ..new });
        Ok(true)
    }

    /// [`Step::Freeze`] at `index`.
    pub(super) fn freeze(&mut self, index: LogIndex, id: u64) -> Result<(), StepRejection> {
        let leaving = self.leaving(id)?;
        if leaving.is_overflowed {
            return Err(StepRejection::Overflowed);
        }
        if leaving.frozen.is_none() {
            leaving.frozen = Some(index);
            self.layout += 1;
        }
        Ok(())
    }

    /// [`Step::HandOver`].
    pub(super) fn hand_over(&mut self, id: u64) -> Result<(), StepRejection> {
        let leaving = self.leaving(id)?;
        if leaving.frozen.is_none() {
            return Err(StepRejection::OutOfOrder);
        }
        leaving.is_handed_over = true;
        Ok(())
    }

    /// [`Step::End`]; gives what is given away now.
    pub(super) fn end(&mut self, id: u64, given: bool) -> Option<Area> {
        let ended = self.outgoing.take_if(|o| o.id == id)?;
        self.layout += 1;
        if !given {
            return None;
        }
        self.given = self.given.or(&ended.area);
        self.gained = self.gained.without(&ended.area);
        self.dropping.push((id, ended.area.clone()));
        Some(ended.area)
    }

    /// [`Step::BeginImport`]. What came before for another `begun` is void: it is dropped first, and the caller is told to
    /// come again.
    pub(super) fn begin_import(&mut self, new: Incoming) -> Result<(), StepRejection> {
        if self.gained.overlaps(&new.area) {
            return Err(StepRejection::Ended);
        }
        let leaves = self.outgoing.as_ref().is_some_and(|o| o.area.overlaps(&new.area));
        if leaves || self.is_dropping(&new.area) {
            return Err(StepRejection::Busy);
        }
        let is_void = self
            .incoming
            .as_ref()
            .is_some_and(|known| known.id == new.id && known.fence <= new.fence && known.begun != new.begun);
        if is_void {
            self.end_import(new.id, false);
            return Err(StepRejection::Busy);
        }
        match &mut self.incoming {
            Some(known) if known.id != new.id => Err(StepRejection::Busy),
            Some(known) if known.fence > new.fence => Err(StepRejection::Superseded),
            Some(known) => {
                known.epoch = known.epoch.max(new.epoch);
                if known.fence != new.fence {
                    (known.fence, known.sequence) = (new.fence, 0);
                }
                Ok(())
            }
            None => {
                self.incoming = Some(new);
                self.layout += 1;
                Ok(())
            }
        }
    }

    /// The incoming area, if this import is the next one; `None` if it was taken before.
    pub(super) fn next_import(&mut self, import: &Import) -> Result<Option<&mut Incoming>, StepRejection> {
        let incoming = self.incoming.as_mut().filter(|i| i.id == import.id).ok_or(StepRejection::Ended)?;
        if incoming.fence != import.fence {
            return Err(StepRejection::Superseded);
        }
        if import.sequence <= incoming.sequence {
            return Ok(None);
        }
        let known = import.rows.iter().map(|row| &row.key).chain(&import.gone);
        let is_next = import.sequence == incoming.sequence + 1 && incoming.cursor != Cursor::Complete;
        if !is_next || !known.into_iter().all(|key| incoming.area.contains(key)) {
            return Err(StepRejection::OutOfOrder);
        }
        Ok(Some(incoming))
    }

    /// [`Step::EndImport`]. False if the area is not whole, and so cannot be taken.
    pub(super) fn end_import(&mut self, id: u64, taken: bool) -> bool {
        let Some(incoming) = self.incoming.take_if(|i| i.id == id) else { return true };
        if taken && incoming.cursor != Cursor::Complete {
            self.incoming = Some(incoming);
            return false;
        }
        self.layout += 1;
        if taken {
            self.gained = self.gained.or(&incoming.area);
            self.given = self.given.without(&incoming.area);
        } else {
            self.dropping.push((id, incoming.area));
        }
        true
    }
}

/// The keys written since a move began, with the log index of the last write. By the bytes of the key.
pub type Touched = BTreeMap<Vec<u8>, LogIndex>;

/// What others on this node see of a machine's moves. The machine writes it, as its state of the log index that it applied
/// last; only the published part waits for the end of a batch.
#[derive(Debug)]
pub struct Ledger {
    /// The moves as of the last publish.
    pub moves: watch::Sender<Arc<Moves>>,
    /// The replacements as of the last publish.
    pub replaces: watch::Sender<Arc<Seen>>,
    /// May be ahead of a view, never behind it.
    pub touched: Mutex<Touched>,
    /// The answers given.
    pub(super) dedup: Mutex<Dedup>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            moves: watch::Sender::new(Arc::default()),
            replaces: watch::Sender::new(Arc::default()),
            touched: Mutex::default(),
            dedup: Mutex::default(),
        }
    }
}

impl Ledger {
    /// The moves as of the last publish.
    pub fn moves(&self) -> Arc<Moves> {
        self.moves.borrow().clone()
    }

    /// The replies to carry along with an area, in parts that fit a message. There is at least one.
    pub fn carried(&self, area: &Area) -> Vec<Carried> {
        self.dedup.lock().carry(area)
    }

    /// What was refused of the requests that they answered, in parts that fit a message.
    pub fn carried_told(&self, area: &Area) -> Vec<CarriedTold> {
        self.dedup.lock().carry_told(area)
    }
}

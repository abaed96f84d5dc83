//! Replacements of generations, as a partition knows them: what is held back for those that may be committed, and what
//! became of those that were.
//!
//! ```text
//! Begin -> Stage 1, 2, 3 … -> (the meta group commits) -> Settle
//!                          -> (or gives it up)         -> Forget
//! ```
//!
//! * **Held back** records are no rows: no read, digest or count sees them. They are a part of the machine's state, go into
//!   manifests and snapshots with it, and are bounded in bytes.
//! * **The map decides.** Whether a replacement was committed is read from the map alone. `Settle` brings what the map says:
//!   the partition takes up the committed ones in their order, each by one entry of the log, so no state in between can be
//!   read; and it is of the generation that the last of them began.
//! * **Newer than the set.** Records written since `Begin` stay, and are not overwritten: who wrote them was told that they
//!   are there. What another replacement wrote in the meantime gives way like what was there before.
//! * **No slots move** while something is held back, and nothing is held back while slots move: which records are the
//!   partition's is settled from `Begin` on. If the map gives slots away all the same, it closes the replacement.
//!
//! What it does not do: it reads no clock and no map; [`crate::worker::replaces`] brings both.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::filter::Filter;
use flotilla_proto::ids::{Epoch, LogIndex};
use flotilla_proto::limits::{REPLACE_BYTES_MAX, REPLACES_KEPT_MAX, REPLACES_OPEN_MAX};
use flotilla_proto::placement::ReplaceId;
use flotilla_proto::schema::FieldType;
use serde::{Deserialize, Serialize};

use crate::storage::row::StoredRow;

/// A step of a replacement: see the module.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ReplaceStep {
    /// Records may come. Answers the partition's generation, as many "affected".
    Begin {
        /// The replacement.
        id: ReplaceId,
        /// A map of this epoch or a later one knows of it.
        epoch: Epoch,
        /// What is to be replaced.
        filter: Filter,
        /// The declared fields under which it is read.
        fields: BTreeMap<String, FieldType>,
    },
    /// Some of them.
    Stage {
        /// The replacement.
        id: ReplaceId,
        /// Counts its parts here, from 1.
        sequence: u64,
        /// The records.
        rows: Vec<StoredRow>,
    },
    /// The map says that this replacement began this generation. One at a time, in their order.
    Settle {
        /// The replacement.
        id: ReplaceId,
        /// The generation.
        generation: u64,
    },
    /// These will not be committed.
    Forget {
        /// The replacements.
        ids: Vec<ReplaceId>,
    },
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplaceRejection {
    /// Slots are moving: nothing is held back meanwhile.
    Moving,
    /// There is no such replacement here (any more).
    Unknown,
    /// A part does not follow on the one before.
    OutOfOrder,
    /// More is held back than may be.
    Full,
}

/// What is held back for one replacement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// The replacement.
    pub id: ReplaceId,
    /// A map of this epoch or a later one knows of it.
    pub epoch: Epoch,
    /// Since when; what was written later is newer than what comes.
    pub begun: LogIndex,
    /// What is to be replaced.
    pub filter: Filter,
    /// The declared fields under which it is read.
    pub fields: BTreeMap<String, FieldType>,
    /// The last part.
    pub sequence: u64,
    /// What came.
    pub rows: Vec<StoredRow>,
}

/// What became of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Which.
    pub id: ReplaceId,
    /// Records written.
    pub written: u64,
    /// Records removed.
    pub removed: u64,
    /// Where it stands in the log: the version of what it wrote.
    pub index: LogIndex,
}

/// A partition's replacements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replaces {
    /// How many of the collection's were committed, as far as this partition took them up.
    pub generation: u64,
    /// What may be committed.
    pub staged: Vec<Staged>,
    /// The last that were, oldest first.
    pub done: Vec<Replaced>,
    /// Bytes held back.
    pub(super) bytes: u64,
}

/// What others on the node see of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// See [`Replaces::generation`].
    pub generation: u64,
    /// Of each that is held back: which, since what epoch, and its last part.
    pub staged: Vec<(ReplaceId, Epoch, u64)>,
    /// See [`Replaces::done`].
    pub done: Arc<[Replaced]>,
}

impl Replaces {
    /// What others see of it.
    pub fn seen(&self) -> Seen {
        let staged = self.staged.iter().map(|staged| (staged.id, staged.epoch, staged.sequence)).collect();
        Seen { generation: self.generation, staged, done: self.done.as_slice().into() }
    }

    /// Whether records may come.
    pub fn is_under_way(&self) -> bool {
        !self.staged.is_empty()
    }

    /// [`ReplaceStep::Begin`]. Again, it changes nothing.
    pub(super) fn begin(&mut self, new: Staged) -> Result<(), ReplaceRejection> {
        if self.staged.iter().any(|staged| staged.id == new.id) || self.is_done(new.id) {
            return Ok(());
        }
        if self.staged.len() >= REPLACES_OPEN_MAX {
            return Err(ReplaceRejection::Full);
        }
        self.staged.push(new);
        Ok(())
    }

    /// [`ReplaceStep::Stage`]; a part that came before is taken for what it is.
    pub(super) fn stage(
        &mut self,
        id: ReplaceId,
        sequence: u64,
        rows: Vec<StoredRow>,
    ) -> Result<u64, ReplaceRejection> {
        let staged = self.staged.iter_mut().find(|staged| staged.id == id);
        let staged = staged.ok_or(ReplaceRejection::Unknown)?;
        if sequence <= staged.sequence {
            return Ok(0);
        }
        if sequence != staged.sequence + 1 {
            return Err(ReplaceRejection::OutOfOrder);
        }
        let bytes = size(&rows);
        if self.bytes + bytes > REPLACE_BYTES_MAX {
            return Err(ReplaceRejection::Full);
        }
        self.bytes += bytes;
        staged.sequence = sequence;
        let came = rows.len() as u64;
        staged.rows.extend(rows);
        Ok(came)
    }

    /// Lets go of what is held back for it.
    pub(super) fn take(&mut self, id: ReplaceId) -> Option<Staged> {
        let at = self.staged.iter().position(|staged| staged.id == id)?;
        let staged = self.staged.remove(at);
        self.bytes = self.bytes.saturating_sub(size(&staged.rows));
        Some(staged)
    }

    /// It was taken up.
    pub(super) fn end(&mut self, replaced: Replaced) {
        if self.done.len() >= REPLACES_KEPT_MAX {
            self.done.remove(0);
        }
        self.done.push(replaced);
    }

    /// Whether a record of this version gives way to a replacement that began then.
    pub(super) fn gives_way(&self, version: LogIndex, begun: LogIndex) -> bool {
        version <= begun || self.done.iter().any(|replaced| replaced.index == version)
    }

    fn is_done(&self, id: ReplaceId) -> bool {
        self.done.iter().any(|replaced| replaced.id == id)
    }
}

/// Bytes that the rows take, about.
fn size(rows: &[StoredRow]) -> u64 {
    rows.iter().map(|row| row.size() as u64).sum()
}

//! The steps of replacements, as the machine takes them. What a step means for what is held back is decided in
//! [`Replaces`](crate::machine::replaces::Replaces); here it meets the rows.

use std::collections::BTreeSet;

use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::placement::ReplaceId;
use flotilla_proto::schema::CollectionSpec;

use super::PartitionMachine;
use crate::machine::replaces::{ReplaceRejection, ReplaceStep, Replaced, Staged};
use crate::machine::{Rejection, Reply};
use crate::query;
use crate::storage::{Fault, SegmentView, StoredRow};

impl PartitionMachine {
    pub(super) fn replace(&mut self, index: LogIndex, step: ReplaceStep) -> Result<Reply, Fault> {
        let done = match step {
            ReplaceStep::Begin { .. } if !self.moves.is_settled() => Err(ReplaceRejection::Moving),
            ReplaceStep::Begin { id, epoch, filter, fields } => {
                let new = Staged { id, epoch, begun: index, filter, fields, sequence: 0, rows: Vec::new() };
                self.replaces.begin(new).map(|()| self.replaces.generation)
            }
            ReplaceStep::Stage { id, sequence, rows } => self.replaces.stage(id, sequence, rows),
            ReplaceStep::Settle { id, generation } => {
                self.settle(index, id, generation)?;
                Ok(self.replaces.generation)
            }
            ReplaceStep::Forget { ids } => {
                ids.into_iter().for_each(|id| drop(self.replaces.take(id)));
                Ok(0)
            }
        };
        self.is_replaced = true;
        Ok(match done {
            Ok(affected) => Reply::Written { affected, log_index: index },
            Err(rejection) => Reply::Rejected(Rejection::Replace(rejection)),
        })
    }

    /// Takes up what was committed, if it is held back here, and is of that generation then.
    fn settle(&mut self, index: LogIndex, id: ReplaceId, generation: u64) -> Result<(), Fault> {
        if generation <= self.replaces.generation {
            return Ok(());
        }
        if let Some(staged) = self.replaces.take(id) {
            // The condition is read against everything before this command.
            self.store.publish(index - 1);
            let replaced = self.take_up(index, staged)?;
            self.replaces.end(replaced);
        }
        self.replaces.generation = generation;
        self.show_presence();
        Ok(())
    }

    fn take_up(&mut self, index: LogIndex, staged: Staged) -> Result<Replaced, Fault> {
        let Staged { id, begun, filter, fields, rows, .. } = staged;
        let coming: BTreeSet<&[u8]> = rows.iter().map(|row| row.key.as_slice()).collect();
        let spec = CollectionSpec { fields, strict: false, ..(*self.store.spec()).clone() };
        let mut gone = Vec::new();
        // A condition that says nothing here was refused before it came.
        if let Ok(filter) = Compiled::new(&filter, &spec) {
            let view = self.store.view();
            let segments: Vec<&dyn SegmentView> = view.segments().collect();
            for key in query::matching_keys(&segments, &filter)? {
                let bytes = key.to_bytes();
                if !coming.contains(bytes.as_slice()) && self.gives_way(&bytes, begun)? {
                    gone.push(key);
                }
            }
        }
        let mut fresh: Vec<StoredRow> = Vec::with_capacity(rows.len());
        for row in rows {
            if self.gives_way(&row.key, begun)? {
                fresh.push(row);
            }
        }
        let removed = self.delete_keys(index, &gone)?;
        let written = self.write(index, fresh)?;
        Ok(Replaced { id, written, removed, index })
    }

    /// Whether the key has no record, or one that gives way to a replacement that began then.
    fn gives_way(&self, key: &[u8], begun: LogIndex) -> Result<bool, Fault> {
        let version = self.store.version_of(key)?;
        Ok(version.is_none_or(|version| self.replaces.gives_way(version, begun)))
    }
}

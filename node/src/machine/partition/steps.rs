//! The steps of moves, as the machine takes them. What a step means for the state of moves is decided in
//! [`Moves`](crate::machine::moves::Moves); here it meets the rows, the touched keys and the windows.

use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;

use super::PartitionMachine;
use crate::machine::moves::{Cursor, Import, Incoming, Outgoing, Step, StepRejection};
use crate::machine::{Rejection, Reply};
use crate::storage::Fault;

impl PartitionMachine {
    pub(super) fn step(&mut self, index: LogIndex, step: Step) -> Result<Reply, Fault> {
        let done = self.take(index, step)?;
        self.is_moved = true;
        self.show_presence();
        Ok(match done {
            Ok(affected) => Reply::Written { affected, log_index: index },
            Err(rejection) => Reply::Rejected(Rejection::Step(rejection)),
        })
    }

    fn take(&mut self, index: LogIndex, step: Step) -> Result<Result<u64, StepRejection>, Fault> {
        let done = match step {
            // What is held back for a replacement was split by the slots as they are.
            Step::Begin { .. } | Step::BeginImport { .. } if self.replaces.is_under_way() => {
                Err(StepRejection::Busy)
            }
            Step::Begin { id, to, area, epoch, touched_max } => {
                let new = Outgoing {
                    id,
                    to,
                    area,
                    epoch,
                    touched_max,
                    begun: index,
                    fence: index,
                    frozen: None,
                    is_handed_over: false,
                    is_overflowed: false,
                };
                self.moves.begin(index, new).map(|is_new| self.forget_touched(is_new))
            }
            Step::Shipped { id, upto } => self.shipped(id, upto),
            Step::Freeze { id } => self.moves.freeze(index, id),
            Step::HandOver { id } => self.moves.hand_over(id),
            Step::End { id, given } => {
                self.end(id, given);
                Ok(())
            }
            Step::BeginImport { id, from, area, epoch, begun, fence } => {
                let cursor = Cursor::default();
                let new = Incoming { id, from, area, epoch, begun, fence, sequence: 0, cursor, rows: 0 };
                let was_coming = self.moves.incoming.is_some();
                let begun = self.moves.begin_import(new);
                if was_coming && self.moves.incoming.is_none() {
                    self.ledger.dedup.lock().forget(id);
                }
                begun
            }
            Step::Import(import) => return self.import(index, import),
            Step::ImportTold(import, told) => return self.import(index, Import { told, ..import }),
            Step::EndImport { id, taken } => self.end_import(id, taken),
            Step::Drop { id, keys, is_last } => return self.drop_rows(index, id, &keys, is_last),
        };
        Ok(done.map(|()| 0))
    }

    fn forget_touched(&mut self, all: bool) {
        if all {
            self.ledger.touched.lock().clear();
        }
    }

    fn shipped(&mut self, id: u64, upto: LogIndex) -> Result<(), StepRejection> {
        if self.moves.outgoing.as_ref().is_none_or(|o| o.id != id) {
            return Err(StepRejection::Ended);
        }
        self.ledger.touched.lock().retain(|_, at| *at > upto);
        Ok(())
    }

    fn end(&mut self, id: u64, given: bool) {
        if self.moves.outgoing.as_ref().is_none_or(|o| o.id != id) {
            return;
        }
        self.forget_touched(true);
        if let Some(area) = self.moves.end(id, given) {
            self.ledger.dedup.lock().give(&area);
        }
    }

    fn end_import(&mut self, id: u64, taken: bool) -> Result<(), StepRejection> {
        if !self.moves.end_import(id, taken) {
            return Err(StepRejection::OutOfOrder);
        }
        if !taken {
            self.ledger.dedup.lock().forget(id);
        }
        Ok(())
    }

    fn import(&mut self, index: LogIndex, import: Import) -> Result<Result<u64, StepRejection>, Fault> {
        let incoming = match self.moves.next_import(&import) {
            Ok(Some(incoming)) => incoming,
            Ok(None) => return Ok(Ok(0)),
            Err(rejection) => return Ok(Err(rejection)),
        };
        let Import { id, sequence, rows, gone, carried, cursor, told, .. } = import;
        (incoming.sequence, incoming.cursor) = (sequence, cursor);
        let gone: Vec<Key> = gone.iter().filter_map(|key| Key::from_bytes(key)).collect();
        let came = self.store.upsert(index, rows)?;
        incoming.rows += came;
        self.store.delete(index, &gone)?;
        let mut dedup = self.ledger.dedup.lock();
        carried.into_iter().for_each(|part| dedup.absorb(id, index, part));
        told.into_iter().for_each(|part| dedup.absorb_told(id, index, part));
        Ok(Ok(came))
    }

    fn drop_rows(
        &mut self,
        index: LogIndex,
        id: u64,
        keys: &[Vec<u8>],
        is_last: bool,
    ) -> Result<Result<u64, StepRejection>, Fault> {
        let Some(at) = self.moves.dropping.iter().position(|(of, _)| *of == id) else {
            return Ok(Err(StepRejection::Ended));
        };
        let area = &self.moves.dropping[at].1;
        let keys: Vec<Key> =
            keys.iter().filter(|key| area.contains(key)).filter_map(|key| Key::from_bytes(key)).collect();
        let dropped = self.store.delete(index, &keys)?;
        if is_last {
            self.moves.dropping.remove(at);
        }
        Ok(Ok(dropped))
    }
}

//! Writes of a collection whose owner may have so many records: whether there is room is decided where the command stands in
//! the log, by what is here then, so that no two writes can both take the last place, and every replica decides alike.

use std::collections::BTreeSet;

use flotilla_proto::ids::LogIndex;

use super::PartitionMachine;
use crate::machine::command::{Expect, RequestId, Rows};
use crate::machine::{Rejection, Reply};
use crate::storage::Fault;

impl PartitionMachine {
    /// Writes the rows, unless they would leave more records than this and add any.
    pub(super) fn within(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        records_max: u64,
        rows: Rows,
    ) -> Result<Reply, Fault> {
        let keys: Vec<&[u8]> = match &rows {
            Rows::All(rows) => rows.iter().map(|row| row.key.as_slice()).collect(),
            Rows::If(rows) => {
                let adds = rows.iter().filter(|(expect, _)| *expect == Expect::Absent);
                adds.map(|(_, row)| row.key.as_slice()).collect()
            }
        };
        if self.is_crowded(request, records_max, keys)? {
            return Ok(Reply::Rejected(Rejection::Crowded));
        }
        match rows {
            Rows::All(rows) => self.upsert(index, request, rows),
            Rows::If(rows) => self.upsert_if(index, request, rows),
        }
    }

    /// Whether these keys would add more records than there is room for. Keys of a request that was carried out before add none.
    fn is_crowded(
        &self,
        request: Option<RequestId>,
        records_max: u64,
        keys: Vec<&[u8]>,
    ) -> Result<bool, Fault> {
        let live = self.store.live();
        if live.saturating_add(keys.len() as u64) <= records_max {
            return Ok(false);
        }
        // A command that is refused for another reason is refused for that one.
        let Ok(admitted) = self.admit(request, keys, |key| key.to_vec()) else { return Ok(false) };
        let fresh: BTreeSet<&[u8]> = admitted.fresh.into_iter().flat_map(|(_, keys)| keys).collect();
        let mut more = 0;
        for key in fresh {
            more += u64::from(self.store.version_of(key)?.is_none());
        }
        Ok(more > 0 && live + more > records_max)
    }
}

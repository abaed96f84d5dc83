//! Records whose time has come.
//!
//! The leader reads its clock and names the keys; this decides by the log alone which of them go: those whose record, as every
//! command before this one left it, expires at or before the moment that the command names. A record that was written anew
//! meanwhile is judged by its new time. What is moving is left to whom it moves to.

use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;

use super::PartitionMachine;
use crate::machine::Reply;
use crate::storage::Fault;

impl PartitionMachine {
    /// Deletes the records of these keys whose time has come by `until_ms`.
    pub(super) fn expire(
        &mut self,
        index: LogIndex,
        until_ms: u64,
        keys: Vec<Vec<u8>>,
    ) -> Result<Reply, Fault> {
        let mut due = Vec::with_capacity(keys.len());
        for key in keys.iter().filter(|key| !self.presence.closed.contains(key)) {
            if self.store.expiry_of(key)?.is_some_and(|at| at <= until_ms) {
                due.extend(Key::from_bytes(key));
            }
        }
        let affected = self.delete_keys(index, &due)?;
        Ok(Reply::Written { affected, log_index: index })
    }
}

//! What a group that does not go on says, and how that is noticed.

use std::time::Duration;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{Fatal, RaftError};

use super::Group;
use super::types::Types;
use crate::log::GroupLog;
use crate::machine::Machine;

/// When to try again what a full disk refused.
const RETRY_FULL: Duration = Duration::from_secs(1);

/// See [`Group::stopped`].
pub(super) fn stopped(group: PartitionId, log: &GroupLog, why: &Fatal<Types>) -> Refusal {
    if let Some(poisoned) = log.poisoned() {
        return Refusal::Unavailable(format!(
            "partition {group}: {poisoned}; what was acknowledged is safe; other replicas serve, this one after a \
             restart of the node"
        ));
    }
    match why {
        Fatal::Stopped => Refusal::Unavailable(format!("partition {group} is closed on this node")),
        why => Refusal::DataLoss(format!("partition {group} has stopped on this node: {why}")),
    }
}

impl<M: Machine> Group<M> {
    /// Refuses what cannot be written at the moment because the disk is full: nothing is queued for it.
    pub fn has_space(&self) -> Result<(), Refusal> {
        let Some(why) = self.log.full() else { return Ok(()) };
        Err(Refusal::Exhausted {
            what: format!("partition {}: {why}; the node takes writes again once there is space", self.id),
            retry_after: RETRY_FULL,
        })
    }

    /// The refusal of a group that does nothing any more. Only a broken machine or log is a loss of data: after a poisoned
    /// lane everything acknowledged is there, and the next start reads it.
    pub(super) fn stopped(&self, why: &Fatal<Types>) -> Refusal {
        stopped(self.id, &self.log, why)
    }

    /// [`Group::stopped`] of an error that can be nothing else.
    pub(super) fn ended(&self, why: &RaftError<Types>) -> Refusal {
        match why {
            RaftError::Fatal(why) => self.stopped(why),
            RaftError::APIError(never) => match *never {},
        }
    }

    /// Waits until the group has stopped by itself for a fault of this replica's own, and says which. Never ends if the
    /// reason is its log lane, which is the node's fault, or a stop that was asked for.
    pub async fn broken(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Err(why @ (Fatal::StorageError(_) | Fatal::Panicked)) if self.log.poisoned().is_none() => {
                    return why.to_string();
                }
                Err(_) => std::future::pending().await,
                Ok(()) => {}
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

//! What a group that does not go on says, and how that is noticed.

use std::time::Duration;

use flotilla_proto::refusal::Refusal;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::Fatal;

use super::Group;
use crate::machine::Machine;

/// When to try again what a full disk refused.
const RETRY_FULL: Duration = Duration::from_secs(1);

impl<M: Machine> Group<M> {
    /// Refuses what cannot be written at the moment because the disk is full: nothing is queued for it.
    pub fn has_space(&self) -> Result<(), Refusal> {
        let Some(why) = self.log.full() else { return Ok(()) };
        Err(Refusal::Exhausted {
            what: format!("partition {}: {why}; the node takes writes again once there is space", self.id),
            retry_after: RETRY_FULL,
        })
    }

    /// The refusal of a group that does nothing any more, with what there is to do. Only a broken machine or log is a loss of
    /// data: after a poisoned lane everything acknowledged is there, and the next start reads it.
    pub(super) fn explained(&self, refusal: Refusal) -> Refusal {
        if !matches!(refusal, Refusal::DataLoss(_) | Refusal::Unavailable(_)) {
            return refusal;
        }
        if let Some(poisoned) = self.log.poisoned() {
            return Refusal::Unavailable(format!(
                "partition {}: {poisoned}; what was acknowledged is safe; other replicas serve, this one after a restart \
                 of the node",
                self.id
            ));
        }
        match self.raft.metrics().borrow_watched().running_state {
            Err(Fatal::Stopped) => {
                Refusal::Unavailable(format!("partition {} is closed on this node", self.id))
            }
            _ => refusal,
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

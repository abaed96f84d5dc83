//! openraft's state machine over a [`Machine`].
//!
//! Entries come as a stream. They are applied one by one, published together, and only then answered, so that who has an
//! answer also sees the effect. A batch ends with the stream or after [`BATCH_MAX`] entries, whichever is first.
//!
//! A *raft snapshot* here is a pointer to the machine's durable state: taking one costs nothing and lets the log behind it
//! be purged. Sending one to another node needs another node.

use std::io;

use futures::{Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use super::types::{LogId, Mark, StoredMembership, Types};
use crate::machine::{Machine, Reply};
use crate::storage::Fault;

const BATCH_MAX: usize = 256;

/// The adapter.
pub struct StateMachine<M> {
    machine: M,
    mark: Mark,
}

/// What a snapshot of this node points to: the durable state at a mark.
#[derive(Clone, Debug)]
pub struct DurableState {
    mark: Mark,
}

fn io_error(fault: Fault) -> io::Error {
    io::Error::other(fault)
}

fn decode(mark: &[u8]) -> Result<Mark, Fault> {
    if mark.is_empty() {
        return Ok(Mark::default());
    }
    postcard::from_bytes(mark).map_err(|e| Fault::Damaged {
        file: "raft mark".into(),
        offset: 0,
        reason: e.to_string(),
    })
}

impl<M: Machine> StateMachine<M> {
    /// Over a machine that was just opened.
    pub fn new(machine: M) -> Result<StateMachine<M>, Fault> {
        let mark = decode(&machine.boot_mark())?;
        Ok(StateMachine { machine, mark })
    }

    fn apply_entry(
        &mut self,
        log_id: LogId,
        payload: EntryPayload<super::types::Proposal, u64, openraft::BasicNode>,
    ) -> Result<Reply, Fault> {
        let reply = match payload {
            EntryPayload::Blank => Reply::Nothing,
            EntryPayload::Normal(proposal) => self.machine.apply(log_id.index, &proposal.0)?,
            EntryPayload::Membership(membership) => {
                self.mark.membership = StoredMembership::new(Some(log_id), membership);
                Reply::Nothing
            }
        };
        self.mark.applied = Some(log_id);
        Ok(reply)
    }

    /// Takes over another machine's durable state, which in a test is its mark alone.
    #[cfg(test)]
    pub(super) fn adopt(&mut self, state: DurableState) -> io::Result<()> {
        self.mark = state.mark;
        self.publish(&mut Vec::new())?;
        self.machine.checkpoint().map_err(io_error)
    }

    fn publish(&mut self, answers: &mut Vec<(ApplyResponder<Types>, Reply)>) -> io::Result<()> {
        let Some(applied) = self.mark.applied else { return Ok(()) };
        let mark = postcard::to_stdvec(&self.mark).map_err(io::Error::other)?;
        self.machine.publish(applied.index, mark).map_err(io_error)?;
        for (responder, reply) in answers.drain(..) {
            responder.send(reply);
        }
        Ok(())
    }
}

impl<M: Machine> RaftStateMachine<Types> for StateMachine<M> {
    type SnapshotData = DurableState;
    type SnapshotBuilder = DurableState;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.mark.applied, self.mark.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut answers = Vec::new();
        let mut count = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = self.apply_entry(entry.log_id, entry.payload).map_err(|fault| {
                tracing::error!(%fault, "a replica stops: its machine broke");
                io_error(fault)
            })?;
            answers.extend(responder.map(|responder| (responder, reply)));
            count += 1;
            if count == BATCH_MAX {
                self.publish(&mut answers)?;
                count = 0;
            }
        }
        if count > 0 { self.publish(&mut answers) } else { Ok(()) }
    }

    async fn get_snapshot_builder(&mut self) -> DurableState {
        if let Err(fault) = self.machine.checkpoint() {
            tracing::warn!(%fault, "the log is not purged: no checkpoint");
        }
        let mark = decode(&self.machine.durable_mark()).unwrap_or_else(|fault| {
            tracing::error!(%fault, "the log is not purged: the durable mark does not decode");
            Mark::default()
        });
        DurableState { mark }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: DurableState,
    ) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the embedded tier has no node that could send a snapshot",
        ))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, DurableState>>> {
        let mark = decode(&self.machine.durable_mark()).map_err(io_error)?;
        Ok(mark.applied.is_some().then(|| snapshot(mark)))
    }
}

fn snapshot(mark: Mark) -> SnapshotOf<Types, DurableState> {
    let meta =
        SnapshotMetaOf::<Types> { last_log_id: mark.applied, last_membership: mark.membership.clone() };
    openraft::Snapshot { meta, snapshot: DurableState { mark } }
}

impl RaftSnapshotBuilder<Types> for DurableState {
    type SnapshotData = DurableState;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, DurableState>> {
        Ok(snapshot(self.mark.clone()))
    }
}

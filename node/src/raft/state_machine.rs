//! openraft's state machine over a [`Machine`].
//!
//! Entries come as a stream. They are applied one by one, published together, and only then answered, so that who has an
//! answer also sees the effect. A batch ends with the stream or after [`BATCH_MAX`] entries, whichever is first.
//!
//! A *raft snapshot* here is a pointer to the machine's durable state: taking one costs nothing and lets the log behind it
//! be purged. One that is read to be sent holds hard links of that state for as long as it lives (`outbox`). None is ever
//! installed here: a replica that is sent one is stopped, its folder replaced, and opened anew (`inbox`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use super::outbox::{OUTGOING, Outgoing};
use super::types::{LogId, Mark, StoredMembership, Types};
use crate::env::random;
use crate::invariants::applied_in_order;
use crate::machine::{Machine, Reply};
use crate::storage::Fault;

const BATCH_MAX: usize = 256;

/// The adapter.
pub struct StateMachine<M> {
    machine: M,
    mark: Mark,
    /// Where links of what is sent are made; none while the group opens.
    outbox: PathBuf,
    is_open: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    durable: Arc<AtomicU64>,
}

/// What a snapshot of this node points to: the durable state at a mark.
#[derive(Clone, Debug)]
pub struct DurableState {
    /// The mark.
    pub(super) mark: Mark,
    /// The files, if it was read to be sent.
    pub(super) links: Option<Arc<Outgoing>>,
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
    /// Over a machine that was just opened. Links of what is sent are made in folders whose names begin like `outbox`,
    /// from when `is_open` is set.
    pub fn new(machine: M, outbox: PathBuf, is_open: Arc<AtomicBool>) -> Result<StateMachine<M>, Fault> {
        let mark = decode(&machine.boot_mark())?;
        let published = Arc::new(AtomicU64::new(mark.applied.map_or(0, |id| id.index)));
        let durable = decode(&machine.durable_mark())?;
        let durable = Arc::new(AtomicU64::new(durable.applied.map_or(0, |id| id.index)));
        Ok(StateMachine { machine, mark, outbox, is_open, published, durable })
    }

    /// Up to which log index the machine's state is published: it moves before anybody is answered.
    pub fn published(&self) -> Arc<AtomicU64> {
        self.published.clone()
    }

    /// Up to which log index the machine's state is on disk, as far as the group was told.
    pub fn durable(&self) -> Arc<AtomicU64> {
        self.durable.clone()
    }

    /// The last entry that the machine's state holds.
    pub fn applied(&self) -> Option<LogId> {
        self.mark.applied
    }

    /// Links the durable state to be sent.
    fn link(&mut self) -> Result<DurableState, Fault> {
        let mut folder = self.outbox.as_os_str().to_owned();
        folder.push(format!("{OUTGOING}{:016x}", random::u64()));
        let folder = PathBuf::from(folder);
        let links = Arc::new(Outgoing::new(folder.clone()));
        let mark = decode(&self.machine.link(&folder)?)?;
        Ok(DurableState { mark, links: Some(links) })
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
        self.published.store(applied.index, Ordering::SeqCst);
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
            if self.is_open.load(Ordering::SeqCst) {
                applied_in_order::check(self.mark.applied.map(|id| id.index), entry.log_id.index)?;
            }
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
        self.durable.fetch_max(mark.applied.map_or(0, |id| id.index), Ordering::SeqCst);
        DurableState { mark, links: None }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: DurableState,
    ) -> io::Result<()> {
        let why = "a snapshot is installed by replacing the replica's folder, not into a running machine";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, DurableState>>> {
        let mark = decode(&self.machine.durable_mark()).map_err(io_error)?;
        if mark.applied.is_none() {
            return Ok(None);
        }
        if !self.is_open.load(Ordering::SeqCst) {
            return Ok(Some(snapshot(DurableState { mark, links: None })));
        }
        // Without links the transfer fails and is tried again; the replica itself is well.
        Ok(Some(snapshot(self.link().unwrap_or_else(|fault| {
            tracing::warn!(%fault, "no snapshot can be sent");
            DurableState { mark, links: None }
        }))))
    }
}

fn snapshot(state: DurableState) -> SnapshotOf<Types, DurableState> {
    let (last_log_id, last_membership) = (state.mark.applied, state.mark.membership.clone());
    openraft::Snapshot { meta: SnapshotMetaOf::<Types> { last_log_id, last_membership }, snapshot: state }
}

impl RaftSnapshotBuilder<Types> for DurableState {
    type SnapshotData = DurableState;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, DurableState>> {
        Ok(snapshot(self.clone()))
    }
}

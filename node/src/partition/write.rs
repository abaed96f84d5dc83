//! The write line of a replica: admit, propose, and what the machine answered to the caller.

use flotilla_proto::filter::Filter;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::patch::{Edit, Patch};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::{Refusal, Violation};

use super::quota::Reserved;
use super::{Owned, Replica, admit};
use crate::env::task;
use crate::machine::command::{Body, Command, Expect, RequestId};
use crate::machine::{Refused, Rejection, Reply};
use crate::planted::{self, Bug};
use tracing::Instrument as _;

/// What to write.
#[derive(Debug)]
pub enum Write {
    /// Records.
    Upsert(Vec<Record>),
    /// Records, each to be written if what it expects is so.
    UpsertIf(Vec<(Expect, Record)>),
    /// Changes of records.
    Patch(Vec<Patch>),
    /// A condition for what to change, and how.
    PatchMatching(Filter, Edit),
    /// Keys to delete.
    Delete(Vec<Key>),
    /// A condition for what to delete.
    DeleteFilter(Filter),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Records written or deleted.
    pub affected: u64,
    /// Where the write stands in the log.
    pub log_index: LogIndex,
    /// Records left as they were, each with its place in the write.
    pub refused: Vec<(u32, Refused)>,
    /// How many more were.
    pub unnamed: u64,
}

impl Write {
    /// Whether it adds rows. Deletions do not: they are how room is made, so nothing that is short refuses them.
    fn grows(&self) -> bool {
        !matches!(self, Write::Delete(_) | Write::DeleteFilter(_))
    }
}

impl Replica {
    /// Waits for room for more rows.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`] if there is none: memory or disk is short, or the background is behind.
    pub(super) async fn has_room(&self) -> Result<(), Refusal> {
        self.room.admits()?;
        self.worker.wait_while_behind().await.map_err(|why| self.serves().err().unwrap_or(why))
    }

    /// Writes: returns when the write is durable, applied and visible here. The keys must be among those `owned`.
    pub async fn write(
        &self,
        request: Option<RequestId>,
        write: Write,
        owned: &Owned,
    ) -> Result<Written, Refusal> {
        self.serves()?;
        if let Some(step) = admit::due(&self.ledger.moves(), owned) {
            let _is_taken = self.step(step).await?;
        }
        if self.ledger.replaces.borrow().generation < owned.replaces.generation {
            self.settle(owned).await?;
        }
        let write_grows = write.grows();
        let body = admit::admit(&self.store.spec(), &self.ledger.moves(), owned, write)?;
        let body = admit::limited(body, &self.owned())?;
        if write_grows {
            self.has_room().await?;
        }
        // Until the answer: by then it is in the store, or never will be.
        let _reserved = self.reserve(|| admit::bytes(&body)).await?;
        let proposed = self.propose(request, body).await;
        match proposed.map_err(|why| self.serves().err().unwrap_or(why))? {
            Reply::Written { affected, log_index } => {
                Ok(Written { affected, log_index, refused: Vec::new(), unnamed: 0 })
            }
            Reply::Decided { affected, log_index, refused, unnamed } => {
                Ok(Written { affected, log_index, refused, unnamed })
            }
            Reply::Rejected(Rejection::Moved) => Err(owned.stale()),
            Reply::Rejected(Rejection::Crowded) => Err(self.crowded()),
            Reply::Rejected(rejection) => Err(self.rejected(rejection)),
            other => Err(Refusal::Internal(format!("partition {} answered {other:?}", self.id))),
        }
    }

    /// Takes these bytes of what a tenant may still write here, if the collection is a tenant's and this node leads the partition.
    pub(super) async fn reserve(&self, bytes: impl FnOnce() -> u64) -> Result<Option<Reserved>, Refusal> {
        let owned = self.owned();
        let Some(tenancy) = owned.tenancy.as_ref().filter(|_| self.group.leads()) else { return Ok(None) };
        match bytes() {
            0 => Ok(None),
            bytes => self.quotas.reserve(tenancy, bytes).await.map(Some),
        }
    }

    /// Proposes a command of this collection's.
    pub(super) async fn propose(&self, request: Option<RequestId>, body: Body) -> Result<Reply, Refusal> {
        let affected = match &body {
            Body::Upsert(rows) => rows.len() as u64,
            _ => 1,
        };
        let command = Command { collection: self.collection, request, body };
        let command = command.encode().map_err(|e| Refusal::Internal(e.to_string()))?;
        if planted::has(Bug::AckBeforeCommit) && self.group.leads() {
            let (group, log_index) = (self.group.clone(), self.group.applied() + 1);
            task::spawn(async move { group.propose(command).await });
            return Ok(Reply::Written { affected, log_index });
        }
        let span = flotilla_trace::step!("propose", partition = self.id.0 as i64, affected = affected as i64);
        self.group.propose(command).instrument(span).await
    }

    /// The refusal of records beyond the partition's share.
    pub(super) fn crowded(&self) -> Refusal {
        match &self.owned().tenancy {
            Some(tenancy) => tenancy.crowded(),
            None => Refusal::Unavailable(format!("partition {} was a tenant's until now", self.id)),
        }
    }

    pub(super) fn rejected(&self, rejection: Rejection) -> Refusal {
        match rejection {
            Rejection::OtherIncarnation => Refusal::NotFound("collection", self.collection.to_string()),
            Rejection::TooOld { serial, forgotten } => Refusal::Aborted(format!(
                "request {serial} is older than all that are remembered of its client (up to {forgotten} are forgotten): \
                 whether it was applied cannot be told"
            )),
            Rejection::AnswerForgotten { serial } => Refusal::Aborted(format!(
                "request {serial} was applied, and which of its records were in conflict is not remembered any more"
            )),
            Rejection::TooMuch { field, why } => Violation::new(field, why).into(),
            Rejection::Unreadable(why) => Refusal::Internal(format!("the command was refused: {why}")),
            Rejection::Crowded => self.crowded(),
            Rejection::Moved | Rejection::Step(_) | Rejection::Replace(_) => {
                Refusal::Unavailable(format!("slots of partition {} are moving: {rejection:?}", self.id))
            }
        }
    }
}

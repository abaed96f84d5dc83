//! Generations, where reads and writes meet them.
//!
//! A request fixes one epoch of its collection, and with it one generation: that of the last replacement committed by then.
//! All partitions that answer it must be of that one. A partition that is behind takes up what the map has committed before
//! it answers: the leader proposes it, another replica waits for it. One that is ahead refuses the request as stale, and the
//! router asks all partitions anew, by the newer map.
//!
//! Writes are brought up likewise: one that knows of a generation is ordered behind it.

use std::time::Duration;

use flotilla_proto::filter::Compiled;
use flotilla_proto::filter::Filter;
use flotilla_proto::ids::{Epoch, LogIndex};
use flotilla_proto::limits::{BATCH_MAX, REPLACE_BYTES_MAX};
use flotilla_proto::placement::ReplaceId;
use flotilla_proto::record::Record;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::at_most;

use super::fresh::Fresh;
use super::{Owned, Replica, admit};
use crate::machine::command::Body;
use crate::machine::replaces::{ReplaceRejection, ReplaceStep, Replaced};
use crate::machine::{Rejection, Reply};
use crate::storage::View;

/// What a replacement that must wait is told.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Replica {
    /// A state that is so fresh, of the caller's generation.
    pub(super) async fn view_of(&self, fresh: Fresh, owned: &Owned) -> Result<View, Refusal> {
        let view = self.view(fresh).await?;
        if view.presence().generation >= owned.replaces.generation {
            return of_generation(view, owned);
        }
        self.reach_generation(owned, fresh.within).await?;
        of_generation(self.view(fresh).await?, owned)
    }

    /// The state that answered at `at`, or a newer one that is so fresh; of the caller's generation.
    pub(super) async fn view_of_at(
        &self,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<View, Refusal> {
        let view = self.view_at(at, fresh).await?;
        if view.presence().generation >= owned.replaces.generation {
            return of_generation(view, owned);
        }
        self.view_of(Fresh { at_least: fresh.at_least.max(at), ..fresh }, owned).await
    }

    /// Waits until this replica has taken up what the caller's map has committed; has it proposed, if it leads.
    async fn reach_generation(&self, owned: &Owned, within: Duration) -> Result<(), Refusal> {
        let wanted = owned.replaces.generation;
        let mut seen = self.ledger.replaces.subscribe();
        if self.group.leads() {
            self.settle(owned).await?;
        }
        let reached = tokio::time::timeout(within, seen.wait_for(|seen| seen.generation >= wanted)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Unavailable("the replica is closing".to_owned())),
            Err(_) => Err(Refusal::Unavailable(format!(
                "partition {} is not of generation {wanted} on this node yet",
                self.id
            ))),
        }
    }

    /// Takes up what the map has committed, one replacement after the other. By the leader.
    pub(crate) async fn settle(&self, owned: &Owned) -> Result<(), Refusal> {
        let wanted = owned.replaces.generation;
        for (generation, id) in &owned.replaces.committed {
            let is_due = {
                let seen = self.ledger.replaces.borrow();
                let is_staged = seen.staged.iter().any(|(staged, ..)| staged == id);
                *generation > seen.generation && (is_staged || *generation == wanted)
            };
            if is_due {
                self.replace_step(ReplaceStep::Settle { id: *id, generation: *generation }).await?;
            }
        }
        Ok(())
    }

    /// Begins to hold back records for a replacement; returns the partition's generation, and the log index.
    pub async fn replace_begin(
        &self,
        id: ReplaceId,
        epoch: Epoch,
        filter: Filter,
        owned: &Owned,
    ) -> Result<(u64, LogIndex), Refusal> {
        let spec = self.store.spec();
        Compiled::new(&filter, &spec)?;
        self.settle(owned).await?;
        let fields = spec.fields.clone();
        self.replace_step(ReplaceStep::Begin { id, epoch, filter, fields }).await
    }

    /// Holds back some records; returns how many were new, and the log index.
    pub async fn replace_stage(
        &self,
        id: ReplaceId,
        sequence: u64,
        records: &[Record],
        owned: &Owned,
    ) -> Result<(u64, LogIndex), Refusal> {
        at_most("records", "records", BATCH_MAX, records.len())?;
        let rows = admit::rows(&self.store.spec(), owned, records)?;
        self.check_room()?;
        self.has_room().await?;
        let _reserved = self.reserve(|| rows.iter().map(|row| row.size() as u64).sum()).await?;
        self.replace_step(ReplaceStep::Stage { id, sequence, rows }).await
    }

    /// What came of a replacement that the map has committed, as far as that is remembered.
    pub async fn replace_settle(&self, id: ReplaceId, owned: &Owned) -> Result<Option<Replaced>, Refusal> {
        self.settle(owned).await?;
        let seen = self.ledger.replaces.borrow().clone();
        Ok(seen.done.iter().rev().find(|replaced| replaced.id == id).copied())
    }

    /// These will not be committed.
    pub(crate) async fn replace_forget(&self, ids: Vec<ReplaceId>) -> Result<(), Refusal> {
        self.replace_step(ReplaceStep::Forget { ids }).await.map(drop)
    }

    /// Refuses more records of a tenant that has too many, or stores too much. What a replacement adds counts once it is taken
    /// up, since it may remove as many: one may go beyond the limit, and the next write does not.
    fn check_room(&self) -> Result<(), Refusal> {
        let owned = self.owned();
        match &owned.tenancy {
            Some(tenancy) if tenancy.is_full => Err(tenancy.full()),
            Some(tenancy) if owned.records_max.is_some_and(|max| self.store.live() > max) => {
                Err(tenancy.crowded())
            }
            _ => Ok(()),
        }
    }

    async fn replace_step(&self, step: ReplaceStep) -> Result<(u64, LogIndex), Refusal> {
        self.serves()?;
        match self.propose(None, Body::Replace(step)).await? {
            Reply::Written { affected, log_index } => Ok((affected, log_index)),
            Reply::Rejected(Rejection::Replace(why)) => Err(self.not_replaced(why)),
            Reply::Rejected(rejection) => Err(self.rejected(rejection)),
            other => Err(Refusal::Internal(format!("partition {} answered {other:?}", self.id))),
        }
    }

    fn not_replaced(&self, why: ReplaceRejection) -> Refusal {
        match why {
            ReplaceRejection::Moving => {
                Refusal::Unavailable(format!("slots of partition {} are moving", self.id))
            }
            ReplaceRejection::Unknown | ReplaceRejection::OutOfOrder => Refusal::Aborted(format!(
                "partition {} holds nothing back for this replacement (any more): begin it anew",
                self.id
            )),
            ReplaceRejection::Full => Refusal::Exhausted {
                what: format!(
                    "partition {} holds back as much for replacements as it may, {} MiB",
                    self.id,
                    REPLACE_BYTES_MAX >> 20
                ),
                retry_after: RETRY_AFTER,
            },
        }
    }
}

/// The view, if it is not of a later generation than the caller knows.
fn of_generation(view: View, owned: &Owned) -> Result<View, Refusal> {
    if view.presence().generation > owned.replaces.generation { Err(owned.stale()) } else { Ok(view) }
}

//! Expiry: what the leader does about records whose time has come.
//!
//! Nothing expires by itself: the leader's worker looks at its clock every [`EVERY`], and while records are due it proposes
//! commands that name them, some at a time. So all replicas delete the same records at the same place in the log, and a
//! record may be seen a little longer than its time: for a look, a command, and a change of leaders at worst. A clock that is
//! ahead deletes early by as much, one that is behind deletes late; no clock but the leader's is asked.
//!
//! Followers do not look. Where nothing expires a look is one comparison for each segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_proto::ids::CollectionId;

use super::Job;
use crate::env::clock;
use crate::machine::Reply;
use crate::machine::command::{Body, Command};
use crate::storage::Fault;
use crate::storage::store::Store;

/// How often the clock is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// Records of one command, at most.
pub(crate) const ROWS_MAX: usize = 10_000;
/// Bytes of their keys, about.
const BYTES_MAX: usize = 1 << 20;

/// The command that deletes what is due by `now_ms`; none if nothing is.
pub(crate) fn due(store: &Store, now_ms: u64, rows_max: usize) -> Result<Option<Body>, Fault> {
    let keys = store.due(now_ms, rows_max, BYTES_MAX)?;
    Ok((!keys.is_empty()).then_some(Body::Expire { until_ms: now_ms, keys }))
}

impl Job {
    /// Looks again and again, until the worker stops.
    pub(super) async fn expire(self: Arc<Job>, collection: CollectionId) {
        loop {
            let _ = tokio::time::timeout(EVERY, self.expiry_wake.notified()).await;
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
            if self.group.leads()
                && let Err(fault) = self.expire_due(collection).await
            {
                tracing::error!(%fault, "records cannot be looked at for their time");
                self.quarantine.note(&fault);
                return self.stop();
            }
        }
    }

    /// Proposes until nothing is due, or something is in the way.
    async fn expire_due(&self, collection: CollectionId) -> Result<(), Fault> {
        while let Some(body) = due(&self.store, clock::unix_millis(), ROWS_MAX)? {
            let Ok(command) = (Command { collection, request: None, body }).encode() else { return Ok(()) };
            let replied = tokio::select! {
                replied = self.group.propose(command) => replied,
                () = self.expiry_wake.notified() => return Ok(()),
            };
            match replied {
                // It was applied, and what it named is gone or was written anew.
                Ok(Reply::Written { .. }) => {}
                Ok(other) => {
                    tracing::warn!(?other, "records whose time has come stay");
                    return Ok(());
                }
                // The next leader does it, or this one at its next look.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

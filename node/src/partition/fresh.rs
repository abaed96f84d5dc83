//! How fresh a replica must be to answer, and the wait until it is.
//!
//! **Linearizable**: the leader's read fence; another replica says who leads. **Bounded**: everything acknowledged longer ago
//! than the bound must be applied here, which [`lag`](super::lag) knows without a leader being asked; and everything
//! acknowledged before the replica's slots were last changed, so that records that moved are there. **Any**: what is
//! here, once the replica has caught up with the last change of its slots. A **commit token** makes each of them wait for its log
//! index. A wait ends before the caller's time does, with the advice to ask another replica.

use std::time::Duration;

use flotilla_proto::ids::LogIndex;
use flotilla_proto::refusal::Refusal;

use super::Replica;
use crate::env::clock::{self, Instant};
use crate::storage::View;

/// A replica that does not hear of its leader for so long will hardly catch up while the caller waits.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// Of the caller's time, the part kept back to say that it was not enough.
const KEPT_PART: u32 = 20;

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// See [`Consistency`].
    pub consistency: Consistency,
    /// A log index that must be applied; 0: none.
    pub at_least: LogIndex,
    /// How long the caller waits.
    pub within: Duration,
}

/// What an answer must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything acknowledged before the call.
    Linearizable,
    /// Everything acknowledged longer than this before the call.
    Bounded(Duration),
    /// Whatever is here.
    Any,
}

impl Replica {
    /// A state that is so fresh.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`] for a linearizable read elsewhere than at the leader; [`Refusal::Unavailable`] if this replica
    /// does not get there in time: another one may.
    pub async fn view(&self, fresh: Fresh) -> Result<View, Refusal> {
        self.serves()?;
        let reached = match fresh.consistency {
            Consistency::Linearizable => self.group.read_fence().await.map(drop),
            Consistency::Bounded(lag) => self.catch_up(lag, fresh).await,
            // However stale: what came with a slot must be here, or a session would lose what it wrote before the slot moved.
            Consistency::Any => self.catch_up(Duration::MAX, fresh).await,
        };
        // A replica that broke meanwhile says so, rather than that its group has stopped.
        reached.map_err(|why| self.serves().err().unwrap_or(why))?;
        Ok(self.views.keep(self.store.view()))
    }

    /// The state that answered at `at`, if it is still at hand; else one that is so fresh, and no older than `at`.
    pub async fn view_at(&self, at: LogIndex, fresh: Fresh) -> Result<View, Refusal> {
        self.serves()?;
        match self.views.find(at) {
            Some(view) => Ok(view),
            None => self.view(Fresh { at_least: fresh.at_least.max(at), ..fresh }).await,
        }
    }

    /// Waits until the token's index is applied.
    async fn reach(&self, fresh: Fresh) -> Result<(), Refusal> {
        if self.group.applied() >= fresh.at_least {
            return Ok(());
        }
        let within = fresh.within - fresh.within / KEPT_PART;
        match tokio::time::timeout(within, self.group.wait_applied(fresh.at_least)).await {
            Ok(reached) => reached,
            Err(_) => Err(Refusal::Unavailable(format!(
                "partition {} is at log index {} on this node, {} is asked for; another replica may be further",
                self.id,
                self.group.applied(),
                fresh.at_least
            ))),
        }
    }

    /// Waits until everything acknowledged longer than `lag` ago is applied.
    async fn catch_up(&self, lag: Duration, fresh: Fresh) -> Result<(), Refusal> {
        self.reach(fresh).await?;
        let called = clock::now();
        // After slots came or went nothing older will do: what came must be here, however long ago it was written.
        let then = called.before(lag).max(self.seat.since().unwrap_or(called.before(lag)));
        if self.holds(then) {
            return Ok(());
        }
        // A leader knows at once; before its first answer to itself, and for a group of one, that is the way.
        if self.group.leader() == Some(self.group.node()) && self.group.read_fence().await.is_ok() {
            return Ok(());
        }
        let within = (fresh.within - fresh.within / KEPT_PART).min(CATCH_UP_MAX);
        let caught_up = tokio::time::timeout(within, self.until_held(then)).await;
        caught_up.unwrap_or_else(|_| {
            let (known, _) = self.lag_figures();
            let known = known.map_or("unknown".to_owned(), |lag| format!("{} ms", lag.as_millis()));
            Err(Refusal::Unavailable(format!(
                "partition {} lags on this node: {known}, at most {} ms are asked for; another replica may be fresher",
                self.id,
                lag.as_millis()
            )))
        })
    }

    fn holds(&self, then: Instant) -> bool {
        self.lag.look(self.group.applied(), |lag| lag.holds(then))
    }

    async fn until_held(&self, then: Instant) -> Result<(), Refusal> {
        let mut answers = self.lag.answers();
        loop {
            answers.borrow_and_update();
            let (holds, wanted) =
                self.lag.look(self.group.applied(), |lag| (lag.holds(then), lag.wanted(then)));
            match wanted {
                _ if holds => return Ok(()),
                Some(index) => self.group.wait_applied(index).await?,
                None => drop(answers.changed().await),
            }
        }
    }

    /// How far this replica is behind at most, in time, if that is known; and in log entries.
    pub fn lag_figures(&self) -> (Option<Duration>, u64) {
        let applied = self.group.applied();
        self.lag.look(applied, |lag| lag.figures(applied, clock::now()))
    }
}

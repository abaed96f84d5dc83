//! What an operator does to a cluster: plan, apply, wait.

use std::time::Duration;

use anyhow::{Context as _, bail};
use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;
use tonic::Code;

use super::{Cluster, SETTLES_WITHIN};
use crate::wait::eventually;

const CALL_WITHIN: Duration = Duration::from_secs(10);

impl Cluster {
    /// Plans and applies; returns the ids of the moves that were queued. The map may change between the two: then anew.
    ///
    /// # Errors
    /// If planning or applying is refused for another reason, or the map never stands still.
    pub async fn apply(&self, goal: Goal) -> anyhow::Result<Vec<u64>> {
        let client = self.client().await?.within(CALL_WITHIN);
        let request = v1::PlanRequest { goal: Some(goal) };
        let applied = eventually(&format!("{request:?} is applied"), SETTLES_WITHIN, async || {
            let plan = match client.plan(request.clone()).await {
                Ok(plan) => plan,
                Err(refused) => return Some(Err(refused)),
            };
            let apply = v1::ApplyRequest { plan: Some(request.clone()), epoch: plan.epoch };
            match client.apply(apply).await {
                Err(stale) if matches!(stale.code(), Code::FailedPrecondition | Code::Aborted) => None,
                done => Some(done),
            }
        })
        .await?;
        Ok(applied.with_context(|| format!("{request:?}"))?.moves)
    }

    /// Waits until these moves are done.
    ///
    /// # Errors
    /// If one fails or is aborted, or they take too long; with what each says.
    pub async fn moved(&self, moves: &[u64]) -> anyhow::Result<()> {
        let client = self.client().await?.within(CALL_WITHIN);
        let mut last = String::new();
        let done = eventually("all moves are done", SETTLES_WITHIN, async || {
            let told = client.moves(v1::MovesRequest {}).await.ok()?.moves;
            let ours: Vec<v1::Move> = told.into_iter().filter(|m| moves.contains(&m.id)).collect();
            last = ours.iter().map(|m| format!("\n  {m:?}")).collect();
            if let Some(broken) = ours.iter().find(|m| is_broken(m)) {
                return Some(Err(anyhow::anyhow!("move {} failed: {}", broken.id, broken.note)));
            }
            let is_done = |id: &u64| ours.iter().any(|m| m.id == *id && m.state() == v1::MoveState::Done);
            moves.iter().all(is_done).then_some(Ok(()))
        })
        .await;
        match done {
            Ok(done) => done.context(last),
            Err(late) => bail!("{late:#}:{last}"),
        }
    }

    /// Plans, applies and waits; returns how many moves it took.
    ///
    /// # Errors
    /// See [`Cluster::apply`] and [`Cluster::moved`].
    pub async fn carry_out(&self, goal: Goal) -> anyhow::Result<usize> {
        let moves = self.apply(goal).await?;
        self.moved(&moves).await?;
        Ok(moves.len())
    }
}

fn is_broken(told: &v1::Move) -> bool {
    matches!(told.state(), v1::MoveState::Failed | v1::MoveState::Aborted)
}

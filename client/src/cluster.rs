//! What an operator asks of the cluster: plans, and the moves that carry them out.

use flotilla_proto::v1;
use flotilla_proto::v1::plan_request::Goal;

use crate::{Client, ReadPreference, Result};

impl Client {
    /// What would have to be done for a goal; nothing happens.
    pub async fn plan(&self, goal: Goal) -> Result<v1::PlanResponse> {
        let send = |channel, request| async move { Client::cluster(channel).plan(request).await };
        self.repeated(v1::PlanRequest { goal: Some(goal) }, ReadPreference::Master, send).await
    }

    /// Queues the moves of a plan that was made at `epoch` (0: at any); returns their numbers.
    ///
    /// # Errors
    /// [`Kind::Retry`](crate::Kind) if the map has changed since, or the fate is unknown: look, and plan again.
    pub async fn apply(&self, goal: Goal, epoch: u64) -> Result<Vec<u64>> {
        let plan = Some(v1::PlanRequest { goal: Some(goal) });
        let send = |channel, request| async move { Client::cluster(channel).apply(request).await };
        Ok(self.once(v1::ApplyRequest { plan, epoch }, send).await?.moves)
    }

    /// Every move that is queued or under way, and the last ones that ended.
    pub async fn moves(&self) -> Result<v1::MovesResponse> {
        let send = |channel, request| async move { Client::cluster(channel).moves(request).await };
        self.repeated(v1::MovesRequest {}, ReadPreference::Master, send).await
    }
}

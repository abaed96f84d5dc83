//! What operators do: plan, apply and watch moves, and compare replicas.

use flotilla_proto::v1;
use futures::{Stream, TryStreamExt as _};

use crate::{Client, Error, ReadPreference, Result};

impl Client {
    /// What would have to be done for a goal; nothing happens.
    pub async fn plan(&self, goal: v1::PlanRequest) -> Result<v1::PlanResponse> {
        let send = |channel, request| async move { Client::cluster(channel).plan(request).await };
        self.repeated(goal, ReadPreference::Master, send).await
    }

    /// Queues the moves of a plan made at `epoch` (0: whatever the plan would be now); returns their numbers.
    pub async fn apply(&self, goal: v1::PlanRequest, epoch: u64) -> Result<Vec<u64>> {
        let message = v1::ApplyRequest { plan: Some(goal), epoch };
        let send = |channel, request| async move { Client::cluster(channel).apply(request).await };
        Ok(self.once(message, send).await?.moves)
    }

    /// The moves queued, under way and lately ended.
    pub async fn moves(&self) -> Result<v1::MovesResponse> {
        let send = |channel, request| async move { Client::cluster(channel).moves(request).await };
        self.repeated(v1::MovesRequest {}, ReadPreference::Master, send).await
    }

    /// Pauses or resumes moves, aborts one (0: all), or sets the rate of copying.
    pub async fn control(&self, message: v1::ControlRequest) -> Result<()> {
        let send = |channel, request| async move { Client::cluster(channel).control(request).await };
        self.once(message, send).await.map(drop)
    }

    /// How many shard nodes there are, should be and must be.
    pub async fn status(&self) -> Result<v1::StatusResponse> {
        let send = |channel, request| async move { Client::cluster(channel).status(request).await };
        self.repeated(v1::StatusRequest {}, ReadPreference::Master, send).await
    }

    /// Asks for so many shard nodes: those of higher ordinals are drained. None: a former request is called off.
    pub async fn scale(&self, to: Option<u32>) -> Result<v1::StatusResponse> {
        let send = |channel, request| async move { Client::cluster(channel).scale(request).await };
        Ok(self.once(v1::ScaleRequest { to }, send).await?.status.unwrap_or_default())
    }

    /// What tenants have and did: of the caller's tenant, for an operator of all; or of the one that is named.
    pub async fn usage(&self, tenant: Option<&str>) -> Result<Vec<v1::TenantUsage>> {
        let message = v1::UsageRequest { tenant: tenant.unwrap_or_default().to_owned() };
        let send = |channel, request| async move { Client::cluster(channel).usage(request).await };
        Ok(self.repeated(message, ReadPreference::Master, send).await?.tenants)
    }

    /// Compares the replicas of each partition at one log index: of one collection, or of all where none is named. `deep`
    /// reads every record. One answer per collection; all of it within [`crate::Options::timeout`].
    pub async fn verify(
        &self,
        collection: Option<&str>,
        deep: bool,
    ) -> Result<impl Stream<Item = Result<v1::VerifyResponse>> + Send + 'static + use<>> {
        let message = v1::VerifyRequest { collection: collection.unwrap_or_default().to_owned(), deep };
        let send = |channel, request| async move { Client::cluster(channel).verify(request).await };
        Ok(self.once(message, send).await?.map_err(Error::from))
    }
}

//! `flotilla.v1.Records`.

use flotilla_proto::passed::records_server::Records;
use flotilla_proto::{passed, v1};
use futures::StreamExt as _;
use futures::stream::{BoxStream, Stream};
use tonic::{Request, Response, Status, Streaming};

use super::Edge;
use crate::Router;
use crate::admission::Class;
use crate::read::{self, scan};
use crate::scope::{Names, Scope};
use crate::{aggregate, write};
use crate::{patch, replace};

#[tonic::async_trait]
impl Records for Edge {
    async fn upsert(
        &self,
        request: Request<v1::UpsertRequest>,
    ) -> Result<Response<v1::UpsertResponse>, Status> {
        self.0.run((Class::Write, "upsert"), request, |message, by| write::upsert(&self.0, message, by)).await
    }

    async fn upsert_stream(
        &self,
        request: Request<Streaming<v1::UpsertRequest>>,
    ) -> Result<Response<v1::UpsertStreamResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let (metadata, _, messages) = request.into_parts();
        let work = async {
            let _share = self.0.tenants.share(&scope, self.0.deadline(&metadata)).await?;
            write::upsert_stream(&self.0, entering(&self.0, &scope, messages, Entering::Each)).await
        };
        let ended = self.0.stream("upsert_stream", &metadata, work).await;
        ended.map_err(|why| self.0.tenants.told(&scope, why))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<passed::GetResponse>, Status> {
        self.0.run((Class::Read, "get"), request, |message, by| read::get(&self.0, message, by)).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.0.run((Class::Write, "delete"), request, |message, by| write::delete(&self.0, message, by)).await
    }

    async fn patch(&self, request: Request<v1::PatchRequest>) -> Result<Response<v1::PatchResponse>, Status> {
        self.0.run((Class::Write, "patch"), request, |message, by| patch::patch(&self.0, message, by)).await
    }

    async fn replace(
        &self,
        request: Request<Streaming<v1::ReplaceRequest>>,
    ) -> Result<Response<v1::ReplaceResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let (metadata, _, messages) = request.into_parts();
        let work = async {
            let _share = self.0.tenants.share(&scope, self.0.deadline(&metadata)).await?;
            replace::replace(&self.0, entering(&self.0, &scope, messages, Entering::First)).await
        };
        let ended = self.0.stream("replace", &metadata, work).await;
        ended.map_err(|why| self.0.tenants.told(&scope, why))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<passed::ScanResponse>, Status> {
        self.0.run((Class::Read, "scan"), request, |message, by| scan::scan(&self.0, message, by)).await
    }

    type ScanStreamStream = BoxStream<'static, Result<passed::ScanResponse, Status>>;

    async fn scan_stream(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStreamStream>, Status> {
        let scope = self.0.scope(&request)?;
        let by = self.0.deadline(request.metadata());
        let mut message = request.into_inner();
        let work = async {
            scope.enter(&mut message)?;
            let share = self.0.enter(&scope, by).await?;
            Ok((scan::scan_stream(self.0.clone(), message).await?, share))
        };
        let begun = self.0.metrics.measure("scan_stream", work).await;
        let (pages, share) = begun.map_err(|why| self.0.tenants.told(&scope, why))?;
        let pages = pages.map(move |page| {
            let _held = &share;
            page.map_err(|why| scope.told(why))
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        self.0.run((Class::Read, "count"), request, |message, by| read::count(&self.0, message, by)).await
    }

    async fn aggregate(
        &self,
        request: Request<v1::AggregateRequest>,
    ) -> Result<Response<v1::AggregateResponse>, Status> {
        self.0
            .run((Class::Read, "aggregate"), request, |message, by| {
                aggregate::aggregate(&self.0, message, by)
            })
            .await
    }
}

/// Which messages of a stream say what it is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entering {
    /// Each for itself.
    Each,
    /// The first, for all of them.
    First,
}

/// The messages of a stream: checked, with the cluster's names, and each counted as a request of its tenant's.
fn entering<'a, M: Names + Send + 'a>(
    router: &'a Router,
    scope: &'a Scope,
    messages: Streaming<M>,
    entering: Entering,
) -> impl Stream<Item = Result<M, Status>> + Unpin + 'a {
    let state = (messages, false);
    Box::pin(futures::stream::try_unfold(state, move |(mut messages, is_begun)| async move {
        let Some(mut message) = messages.next().await.transpose()? else { return Ok(None) };
        if entering == Entering::Each || !is_begun {
            scope.enter(&mut message)?;
        }
        router.counted(scope).await?;
        Ok(Some((message, (messages, true))))
    }))
}

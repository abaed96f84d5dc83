//! `flotilla.v1.Records`.

use flotilla_proto::v1;
use flotilla_proto::v1::records_server::Records;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Edge;
use crate::admission::Class;
use crate::read::{self, scan};
use crate::scope::Scope;
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
        let scope = Scope::of(&request);
        let (metadata, _, batches) = request.into_parts();
        self.0.stream("upsert_stream", &metadata, write::upsert_stream(&self.0, scope.each(batches))).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
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
        let scope = Scope::of(&request);
        let (metadata, _, parts) = request.into_parts();
        self.0.stream("replace", &metadata, replace::replace(&self.0, scope.first(parts))).await
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        self.0.run((Class::Read, "scan"), request, |message, by| scan::scan(&self.0, message, by)).await
    }

    type ScanStreamStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;

    async fn scan_stream(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStreamStream>, Status> {
        Scope::of(&request).check(request.get_ref())?;
        let work = scan::scan_stream(self.0.clone(), request.into_inner());
        let pages = self.0.metrics.measure("scan_stream", work).await?;
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

//! `flotilla.v1.Collections`.

use flotilla_proto::v1;
use flotilla_proto::v1::collections_server::Collections;
use tonic::{Request, Response, Status};

use super::Edge;
use crate::admission::Class;
use crate::tenant::Member;
use crate::{collections, read};

#[tonic::async_trait]
impl Collections for Edge {
    async fn create(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let tenancy = scope.member().map(Member::tenancy);
        let work = |message, by| collections::create(&self.0, message, tenancy, by);
        self.0.run((Class::System, "create_collection"), request, work).await
    }

    async fn get(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        let work = |message: v1::GetCollectionRequest, by| async move {
            read::collection_status(&self.0, &message.name, by).await
        };
        self.0.run((Class::System, "get_collection"), request, work).await
    }

    async fn list(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let work = |_, by| async move {
            let mut answer = collections::list(&self.0, by).await?;
            answer.collections.retain(|c| c.spec.as_ref().is_some_and(|spec| scope.sees(&spec.name)));
            Ok(answer)
        };
        self.0.run((Class::System, "list_collections"), request, work).await
    }

    async fn update(
        &self,
        request: Request<v1::UpdateCollectionRequest>,
    ) -> Result<Response<v1::UpdateCollectionResponse>, Status> {
        self.0
            .run((Class::System, "update_collection"), request, |message, by| {
                collections::update(&self.0, message, by)
            })
            .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        self.0
            .run((Class::System, "delete_collection"), request, |message, by| {
                collections::delete(&self.0, message, by)
            })
            .await
    }
}

//! `flotilla.v1.Search`.

use flotilla_proto::v1;
use flotilla_proto::v1::search_server::Search;
use tonic::{Request, Response, Status};

use super::Edge;
use crate::admission::Class;

#[tonic::async_trait]
impl Search for Edge {
    async fn search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        self.0
            .run((Class::Read, "search"), request, |message, deadline| {
                crate::search::search(&self.0, message, deadline)
            })
            .await
    }
}

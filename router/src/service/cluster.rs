//! `flotilla.v1.Cluster`.

use flotilla_proto::convert::map_to_wire;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_server::Cluster;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::Edge;
use crate::Router;
use crate::admission::Class;
use crate::scope::Scope;

#[tonic::async_trait]
impl Cluster for Edge {
    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let work = |_, by| async move {
            let placement = Some(scope.map(map_to_wire(&*self.0.placement.known(by).await?)));
            Ok(v1::DescribeResponse { placement, version: env!("CARGO_PKG_VERSION").to_owned() })
        };
        self.0.run((Class::System, "describe"), request, work).await
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        self.0.run((Class::System, "plan"), request, |plan, by| crate::cluster::plan(&self.0, plan, by)).await
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        self.0
            .run((Class::System, "apply"), request, |apply, by| crate::cluster::apply(&self.0, apply, by))
            .await
    }

    async fn moves(&self, request: Request<v1::MovesRequest>) -> Result<Response<v1::MovesResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let work = |moves, by| async move {
            let mut answer = crate::cluster::moves(&self.0, moves, by).await?;
            answer.moves.retain(|moved| scope.sees(&moved.collection));
            Ok(answer)
        };
        self.0.run((Class::System, "moves"), request, work).await
    }

    async fn control(
        &self,
        request: Request<v1::ControlRequest>,
    ) -> Result<Response<v1::ControlResponse>, Status> {
        self.0
            .run((Class::System, "control"), request, |control, by| {
                crate::cluster::control(&self.0, control, by)
            })
            .await
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let work = |status, by| crate::cluster::status(&self.0, status, by);
        self.0.run((Class::System, "status"), request, work).await
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ScaleResponse>, Status> {
        self.0
            .run((Class::System, "scale"), request, |scale, by| crate::cluster::scale(&self.0, scale, by))
            .await
    }

    type VerifyStream = BoxStream<'static, Result<v1::VerifyResponse, Status>>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let by = self.0.deadline(request.metadata());
        let scope = self.0.scope(&request)?;
        let mut message = request.into_inner();
        let noted = scope.noted(&message);
        scope.enter(&mut message)?;
        let share = self.0.enter(&scope, by).await.map_err(|why| self.0.tenants.told(&scope, why))?;
        let begun = crate::cluster::verify(self.0.clone(), message, by).await;
        scope.ended(noted.as_deref(), begun.as_ref().err().map_or(Code::Ok, Status::code));
        let answers = begun.map_err(|why| scope.told(why))?.map(move |answer| {
            let _held = &share;
            answer.map(|answer| scope.tell(answer)).map_err(|why| scope.told(why))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn usage(&self, request: Request<v1::UsageRequest>) -> Result<Response<v1::UsageResponse>, Status> {
        let scope = self.0.scope(&request)?;
        let work = |usage, by| async move { crate::tenant::usage::usage(&self.0, usage, &scope, by).await };
        self.0.run((Class::System, "usage"), request, work).await
    }

    type WatchStream = BoxStream<'static, Result<v1::PlacementMap, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let scope = self.0.scope(&request)?;
        let after = request.into_inner().after_epoch;
        let watching = Watching {
            installed: self.0.placement.installed(),
            draining: self.0.draining(),
            router: std::sync::Arc::downgrade(&self.0),
            after,
            scope,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(watching, |mut watching| async move {
            let map = watching.next().await?;
            Some((Ok(map), watching))
        }))))
    }
}

/// A caller who watches. It does not keep the router alive, and ends when the router goes down.
struct Watching {
    router: std::sync::Weak<Router>,
    installed: watch::Receiver<u64>,
    draining: watch::Receiver<bool>,
    after: u64,
    scope: Scope,
}

impl Watching {
    async fn next(&mut self) -> Option<v1::PlacementMap> {
        loop {
            self.installed.borrow_and_update();
            let map = self.router.upgrade()?.placement.map();
            if let Some(map) = map.filter(|map| map.epoch.0 > self.after) {
                self.after = map.epoch.0;
                return Some(self.scope.map(map_to_wire(&map)));
            }
            tokio::select! {
                changed = self.installed.changed() => changed.ok()?,
                _ = self.draining.wait_for(|is_draining| *is_draining) => return None,
            }
        }
    }
}

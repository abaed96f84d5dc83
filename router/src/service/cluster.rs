//! `flotilla.v1.Cluster`.

use flotilla_proto::convert::map_to_wire;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_server::Cluster;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::Edge;
use crate::Router;

#[tonic::async_trait]
impl Cluster for Edge {
    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let work = |_, by| async move {
            let placement = Some(map_to_wire(&*self.0.placement.known(by).await?));
            Ok(v1::DescribeResponse { placement, version: env!("CARGO_PKG_VERSION").to_owned() })
        };
        self.0.run("describe", request, work).await
    }

    type WatchStream = BoxStream<'static, Result<v1::PlacementMap, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after_epoch;
        let watching = Watching {
            installed: self.0.placement.installed(),
            draining: self.0.draining(),
            router: std::sync::Arc::downgrade(&self.0),
            after,
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
}

impl Watching {
    async fn next(&mut self) -> Option<v1::PlacementMap> {
        loop {
            self.installed.borrow_and_update();
            let map = self.router.upgrade()?.placement.map();
            if let Some(map) = map.filter(|map| map.epoch.0 > self.after) {
                self.after = map.epoch.0;
                return Some(map_to_wire(&map));
            }
            tokio::select! {
                changed = self.installed.changed() => changed.ok()?,
                _ = self.draining.wait_for(|is_draining| *is_draining) => return None,
            }
        }
    }
}

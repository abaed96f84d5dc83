//! The meta group's service.

use std::pin::Pin;
use std::sync::Arc;

use flotilla_proto::convert::{
    collection_to_wire, fields_from_wire, limits_to_wire, map_to_wire, spec_from_wire, tenancy_from_wire,
};
use flotilla_proto::limits::PARTITIONS_DEFAULT;
use flotilla_proto::placement::PlacementMap;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{Hnsw, IndexKind, Quantization};
use flotilla_proto::shard::{self, meta_server};
use flotilla_proto::tenant::{Class, Tenancy, check_tenant};
use flotilla_proto::v1;
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::moves::Mover;
use super::replace::change_from_wire;
use super::{fleet, time_left, within};
use crate::meta::Meta;
use crate::meta::catalogue::{Outcome, Owner};
use crate::partition::registry::Registry;

/// See the module.
pub struct MetaService {
    registry: Arc<Registry>,
    meta: Arc<Meta>,
    mover: Arc<Mover>,
    defaults: Defaults,
}

/// What a new collection gets where its creator says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Partitions.
    pub partitions: u32,
    /// Voting replicas of each; 0: as many as there are nodes, up to a bound.
    pub replication_factor: u32,
    /// Whether its keys are spread by their order, and not by their hash.
    pub is_range: bool,
    /// The index of each vector.
    pub index: IndexKind,
    /// What searches of each graph look at first, where its index is named but not this.
    pub quantization: Option<Quantization>,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            partitions: PARTITIONS_DEFAULT,
            replication_factor: 0,
            is_range: false,
            index: IndexKind::default(),
            quantization: Some(Quantization::default()),
        }
    }
}

impl Defaults {
    fn fill(&self, spec: &mut v1::CollectionSpec) {
        if spec.partitions == 0 {
            spec.partitions = self.partitions;
        }
        if spec.replication_factor == 0 {
            spec.replication_factor = self.replication_factor;
        }
        if self.is_range && spec.strategy() == v1::Strategy::Unspecified && spec.shard_delimiter.is_empty() {
            spec.set_strategy(v1::Strategy::Range);
        }
        let is_list = |vector: &v1::VectorParams| {
            matches!(vector.kind(), v1::VectorKind::Sparse | v1::VectorKind::Multi)
        };
        for vector in spec.vectors.values_mut().filter(|vector| !is_list(vector)) {
            if vector.index() == v1::IndexKind::Unspecified && vector.hnsw.is_none() {
                match (self.index.hnsw(), self.index) {
                    (None, IndexKind::Lsh(_)) => vector.set_index(v1::IndexKind::Lsh),
                    (None, _) => vector.set_index(v1::IndexKind::Flat),
                    (Some(Hnsw { m, ef_construction, ef_search }), _) => {
                        vector.hnsw = Some(v1::HnswParams {
                            preset: String::new(),
                            m: *m,
                            ef_construction: *ef_construction,
                            ef_search: *ef_search,
                        });
                    }
                }
            }
            let is_graph = matches!(vector.index(), v1::IndexKind::Hnsw | v1::IndexKind::Unspecified);
            if is_graph && vector.quantization() == v1::Quantization::Unspecified {
                vector.set_quantization(match self.quantization {
                    Some(Quantization::Scalar) => v1::Quantization::Scalar,
                    Some(Quantization::Binary) => v1::Quantization::Binary,
                    Some(Quantization::Product) => v1::Quantization::Product,
                    None => v1::Quantization::None,
                });
            }
        }
    }
}

impl MetaService {
    /// Over this node's meta group; a change is answered when this node's own replicas follow it.
    pub fn new(
        registry: Arc<Registry>,
        meta: Arc<Meta>,
        mover: Arc<Mover>,
        defaults: Defaults,
    ) -> MetaService {
        MetaService { registry, meta, mover, defaults }
    }
}

#[tonic::async_trait]
impl meta_server::Meta for MetaService {
    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let left = time_left(&request);
        Ok(Response::new(within(left, self.mover.plan(request.into_inner())).await?))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let left = time_left(&request);
        Ok(Response::new(within(left, self.mover.apply(request.into_inner())).await?))
    }

    async fn moves(&self, request: Request<v1::MovesRequest>) -> Result<Response<v1::MovesResponse>, Status> {
        Ok(Response::new(within(time_left(&request), self.mover.moves()).await?))
    }

    async fn control(
        &self,
        request: Request<v1::ControlRequest>,
    ) -> Result<Response<v1::ControlResponse>, Status> {
        let left = time_left(&request);
        within(left, self.mover.control(request.into_inner())).await?;
        Ok(Response::new(v1::ControlResponse {}))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(within(time_left(&request), fleet::status(&self.meta)).await?))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ScaleResponse>, Status> {
        let left = time_left(&request);
        let to = request.into_inner().to;
        let status = within(left, async {
            self.mover.scale(to).await?;
            fleet::status(&self.meta).await
        })
        .await?;
        Ok(Response::new(v1::ScaleResponse { status: Some(status) }))
    }

    async fn create(
        &self,
        request: Request<shard::CreateRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        let left = time_left(&request);
        let shard::CreateRequest { spec, tenancy } = request.into_inner();
        let mut spec = spec.ok_or_else(|| Violation::new("spec", "is missing"))?;
        self.defaults.fill(&mut spec);
        let spec = spec_from_wire(spec)?;
        let owner = tenancy.map(tenancy_from_wire).transpose()?;
        let owner = owner.map(|Tenancy { tenant, class, isolation, .. }| Owner { tenant, class, isolation });
        let placement = within(left, async {
            let placement = self.meta.create(spec, owner).await?;
            self.registry.wait_for(placement.epoch, left).await?;
            Ok(placement)
        })
        .await?;
        Ok(Response::new(v1::CreateCollectionResponse { collection: Some(collection_to_wire(&placement)) }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateCollectionRequest>,
    ) -> Result<Response<v1::UpdateCollectionResponse>, Status> {
        let left = time_left(&request);
        let v1::UpdateCollectionRequest { name, add_fields, ef_search, languages } = request.into_inner();
        let fields = fields_from_wire(("add_fields", "languages"), add_fields, languages)?;
        let placement = within(left, async {
            let placement = self.meta.update(name, fields, ef_search).await?;
            self.registry.wait_for(placement.epoch, left).await?;
            Ok(placement)
        })
        .await?;
        Ok(Response::new(v1::UpdateCollectionResponse { collection: Some(collection_to_wire(&placement)) }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let left = time_left(&request);
        let name = request.into_inner().name;
        within(left, async {
            let epoch = self.meta.delete(name).await?;
            self.registry.wait_for(epoch, left).await
        })
        .await?;
        Ok(Response::new(v1::DeleteCollectionResponse {}))
    }

    async fn replace(
        &self,
        request: Request<shard::ReplaceRequest>,
    ) -> Result<Response<shard::ReplaceResponse>, Status> {
        let left = time_left(&request);
        let change = change_from_wire(&request.into_inner())?;
        let (epoch, generation) = within(left, async {
            match self.meta.change(change).await? {
                Outcome::Replaced { epoch, generation } => Ok((epoch, generation)),
                other => Err(Refusal::Internal(format!("a replacement led to {other:?}"))),
            }
        })
        .await?;
        Ok(Response::new(shard::ReplaceResponse { epoch: epoch.0, generation }))
    }

    async fn lease(
        &self,
        request: Request<shard::LeaseRequest>,
    ) -> Result<Response<shard::LeaseResponse>, Status> {
        let left = time_left(&request);
        let shard::LeaseRequest { tenant, class, wanted } = request.into_inner();
        check_tenant("tenant", &tenant)?;
        let class = Class::of_text("class", &class)?;
        let (granted, limits) = within(left, self.meta.lease(&tenant, class, wanted)).await?;
        Ok(Response::new(shard::LeaseResponse {
            granted: granted.count,
            retry_after_ms: u64::try_from(granted.retry_after.as_millis()).unwrap_or(u64::MAX),
            limits: Some(limits_to_wire(&limits)),
            last_minute: granted.last_minute,
        }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        within(time_left(&request), self.meta.read_fence()).await?;
        Ok(Response::new(v1::DescribeResponse {
            placement: Some(map_to_wire(&self.meta.map())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::PlacementMap, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after_epoch;
        if after > self.meta.map().epoch.0 {
            let why = format!("the map is at epoch {}, older than {after}", self.meta.map().epoch);
            return Err(Refusal::Unavailable(why).into());
        }
        // A watch keeps only the newest map: a slow watcher skips epochs and never queues them.
        let maps = WatchStream::new(self.meta.watch());
        let newer = maps.enumerate().filter_map(move |(n, map): (usize, Arc<PlacementMap>)| async move {
            (n == 0 || map.epoch.0 > after).then(|| Ok(map_to_wire(&map)))
        });
        Ok(Response::new(Box::pin(newer.take_until(self.meta.over()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(defaults: Defaults, index: v1::IndexKind) -> v1::VectorParams {
        let vector = v1::VectorParams { dims: 4, index: index.into(), ..Default::default() };
        let vectors = [("a".to_owned(), vector)].into();
        let mut spec = v1::CollectionSpec { name: "c".into(), vectors, ..Default::default() };
        defaults.fill(&mut spec);
        assert_eq!(spec.partitions, defaults.partitions);
        spec.vectors.remove("a").unwrap()
    }

    #[test]
    fn a_graph_is_quantized_by_default_and_a_scanned_vector_never() {
        let plain = Defaults::default();
        assert_eq!(filled(plain, v1::IndexKind::Hnsw).quantization(), v1::Quantization::Scalar);
        assert_eq!(filled(plain, v1::IndexKind::Flat).quantization(), v1::Quantization::Unspecified);
        let flat = Defaults { index: IndexKind::Flat, ..plain };
        assert_eq!(filled(flat, v1::IndexKind::Hnsw).quantization(), v1::Quantization::Scalar);
        assert_eq!(filled(flat, v1::IndexKind::Unspecified).index(), v1::IndexKind::Flat);
        assert_eq!(filled(flat, v1::IndexKind::Unspecified).quantization(), v1::Quantization::Unspecified);
        let bare = Defaults { quantization: None, ..plain };
        assert_eq!(filled(bare, v1::IndexKind::Hnsw).quantization(), v1::Quantization::None);
    }
}

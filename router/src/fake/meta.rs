//! The meta group of the fake cluster: a map that changes when told to.

use std::time::Duration;

use flotilla_proto::convert::*;
use flotilla_proto::ids::{Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Partition};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_server::Meta;
use flotilla_proto::tenant::Bucket;
use flotilla_proto::{ring, shard, v1};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::Fake;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the fake node has none of it"))
}

#[tonic::async_trait]
impl Meta for Fake {
    async fn plan(&self, _: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        not_here()
    }

    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        not_here()
    }

    async fn moves(&self, _: Request<v1::MovesRequest>) -> Result<Response<v1::MovesResponse>, Status> {
        not_here()
    }

    async fn control(&self, _: Request<v1::ControlRequest>) -> Result<Response<v1::ControlResponse>, Status> {
        not_here()
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        not_here()
    }

    async fn scale(&self, _: Request<v1::ScaleRequest>) -> Result<Response<v1::ScaleResponse>, Status> {
        not_here()
    }

    async fn replace(
        &self,
        _: Request<shard::ReplaceRequest>,
    ) -> Result<Response<shard::ReplaceResponse>, Status> {
        not_here()
    }

    async fn create(
        &self,
        r: Request<shard::CreateRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        self.strike("create").await?;
        let shard::CreateRequest { spec, tenancy } = r.into_inner();
        let spec = spec_from_wire(spec.unwrap())?;
        let tenancy = tenancy.map(tenancy_from_wire).transpose()?;
        let known = self.map();
        if known.collection(&spec.name).is_some() {
            return Err(Refusal::AlreadyExists("collection", spec.name).into());
        }
        let epoch = Epoch(known.epoch.0 + 1);
        let nodes: Vec<NodeId> = known.nodes.iter().map(|n| n.id).collect();
        let partition = |n: u32| {
            let mut replicas = nodes.clone();
            let first = n as usize % replicas.len();
            replicas.rotate_left(first);
            Partition::new(PartitionId(epoch.0 * 100 + u64::from(n)), replicas)
        };
        let partitions: Vec<Partition> = (0..spec.partitions).map(partition).collect();
        let slots = ring::propose(&partitions.iter().map(|p| (p.id.0, 1.0)).collect::<Vec<_>>());
        let id = uuid::Uuid::from_u128(epoch.0.into());
        let (slot_move, replaces) = (None, Default::default());
        let placement =
            CollectionPlacement { id, spec, epoch, partitions, slots, slot_move, replaces, tenancy };
        let collection = Some(collection_to_wire(&placement));
        self.change(true, |map| {
            map.epoch = epoch;
            map.collections.push(placement);
            map.collections.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        });
        Ok(Response::new(v1::CreateCollectionResponse { collection }))
    }

    async fn update(
        &self,
        r: Request<v1::UpdateCollectionRequest>,
    ) -> Result<Response<v1::UpdateCollectionResponse>, Status> {
        self.strike("update").await?;
        let message = r.into_inner();
        let mut updated = Err(Refusal::NotFound("collection", message.name.clone()).into());
        self.change(true, |map| {
            map.epoch.0 += 1;
            let epoch = map.epoch;
            if let Some(c) = map.collections.iter_mut().find(|c| c.spec.name == message.name) {
                let (fields, languages) = (message.add_fields.clone(), message.languages.clone());
                c.spec.fields.extend(fields_from_wire(("f", "l"), fields, languages).unwrap());
                c.epoch = epoch;
                updated = Ok(collection_to_wire(c));
            }
        });
        updated.map(|c| Response::new(v1::UpdateCollectionResponse { collection: Some(c) }))
    }

    async fn delete(
        &self,
        r: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        self.strike("delete").await?;
        let name = r.into_inner().name;
        if self.map().collection(&name).is_none() {
            return Err(Refusal::NotFound("collection", name).into());
        }
        self.change(true, |map| {
            map.epoch.0 += 1;
            map.collections.retain(|c| c.spec.name != name);
        });
        Ok(Response::new(v1::DeleteCollectionResponse {}))
    }

    async fn lease(&self, r: Request<shard::LeaseRequest>) -> Result<Response<shard::LeaseResponse>, Status> {
        self.strike("lease").await?;
        let shard::LeaseRequest { tenant, wanted, .. } = r.into_inner();
        let limits = *self.0.common.limits.lock();
        let mut buckets = self.0.common.buckets.lock();
        let now = self.0.common.began.elapsed();
        let per_minute = limits.max_requests_per_minute;
        let (bucket, total) = buckets.entry(tenant).or_insert_with(|| (Bucket::new(per_minute, now), 0));
        let granted = bucket.take(wanted, now);
        *total += granted;
        let wait = if granted == 0 { bucket.wait(wanted) } else { Duration::ZERO };
        Ok(Response::new(shard::LeaseResponse {
            granted,
            retry_after_ms: wait.as_millis() as u64,
            limits: Some(limits_to_wire(&limits)),
            last_minute: *total,
        }))
    }

    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        self.strike("describe").await?;
        let placement = Some(map_to_wire(&self.map()));
        Ok(Response::new(v1::DescribeResponse { placement, version: "fake".into() }))
    }

    type WatchStream = BoxStream<'static, Result<v1::PlacementMap, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.strike("watch").await?;
        let maps = tokio_stream::wrappers::WatchStream::new(self.0.common.maps.subscribe());
        Ok(Response::new(maps.map(|map| Ok(map_to_wire(&map))).boxed()))
    }
}

//! The meta group of the fake cluster: a map that changes when told to.

use flotilla_proto::convert::*;
use flotilla_proto::ids::{Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Partition};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_server::Meta;
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

    async fn replace(
        &self,
        _: Request<shard::ReplaceRequest>,
    ) -> Result<Response<shard::ReplaceResponse>, Status> {
        not_here()
    }

    async fn create(
        &self,
        r: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        self.strike("create").await?;
        let spec = spec_from_wire(r.into_inner().spec.unwrap())?;
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
        let placement = CollectionPlacement { id, spec, epoch, partitions, slots, slot_move, replaces };
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

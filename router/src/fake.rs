//! A shard node for tests: the services `Shard` and `Meta` over a naive store in memory, with refusals on demand. Several
//! of them may share one store, as replicas that never lag would.

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::convert::*;
use flotilla_proto::filter::Compiled;
use flotilla_proto::group::GroupBy;
use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Node, Partition, PlacementMap};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::Distance;
use flotilla_proto::shard::meta_server::{Meta, MetaServer};
use flotilla_proto::shard::shard_server::{Shard, ShardServer};
use flotilla_proto::{ring, shard, v1};
use futures::Stream;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// What goes wrong with the next call of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Refused with this.
    Refuse(Refusal),
    /// Never answered.
    Hang,
    /// Done, but never answered: the way back is cut.
    Swallow,
    /// Answered after this time.
    Slow(Duration),
}

/// A call as the node saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub operation: &'static str,
    pub epoch: u64,
    pub timeout: Option<String>,
    pub view: u64,
    pub partition: u64,
    pub fresh: Option<shard::Freshness>,
}

#[derive(Default)]
struct Store {
    log_index: u64,
    records: BTreeMap<Key, Record>,
    serials: BTreeSet<(u64, u64)>,
}

/// The node. Clones are the same node.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

/// What nodes of one cluster share.
struct Common {
    maps: watch::Sender<PlacementMap>,
    stores: Mutex<BTreeMap<PartitionId, Store>>,
    /// Who leads each partition; one that is not named is led by whoever is asked.
    leaders: Mutex<BTreeMap<PartitionId, Option<NodeId>>>,
}

struct Inner {
    id: NodeId,
    common: Arc<Common>,
    is_paused: watch::Sender<bool>,
    faults: Mutex<Vec<(&'static str, Fault)>>,
    seen: Mutex<Vec<Seen>>,
    kill: Mutex<Option<oneshot::Sender<()>>>,
    /// Told when a hanging call was dropped.
    pub cancelled: Notify,
}

struct OnDrop<'a>(&'a Notify);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fake {
    /// A node whose map names the nodes at these addresses; it is the first.
    pub(crate) fn new(id: u64, addresses: &[&str]) -> Fake {
        let node = |(n, address): (usize, &&str)| {
            let id = n as u64 + 1;
            Node::new(NodeId(id), uuid::Uuid::from_u128(id.into()), *address)
        };
        let nodes = addresses.iter().enumerate().map(node).collect();
        let map = PlacementMap { epoch: Epoch(1), nodes, ..Default::default() };
        let common =
            Common { maps: watch::Sender::new(map), stores: Mutex::default(), leaders: Mutex::default() };
        Fake::of(id, Arc::new(common))
    }

    fn of(id: u64, common: Arc<Common>) -> Fake {
        Fake(Arc::new(Inner {
            id: NodeId(id),
            common,
            is_paused: watch::Sender::new(false),
            faults: Mutex::default(),
            seen: Mutex::default(),
            kill: Mutex::default(),
            cancelled: Notify::new(),
        }))
    }

    /// Another node of the same cluster.
    pub(crate) fn beside(&self, id: u64) -> Fake {
        Fake::of(id, self.0.common.clone())
    }

    /// From now on `leader` leads every partition of the map; nobody, if none.
    pub(crate) fn lead(&self, leader: Option<u64>) {
        let map = self.map();
        let led = map.partitions().map(|(_, partition)| (partition.id, leader.map(NodeId)));
        *self.0.common.leaders.lock() = led.collect();
    }

    /// Answers nothing until it goes on, as a stopped process would.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.0.is_paused.send_replace(is_paused);
    }

    pub(crate) fn fault(&self, operation: &'static str, fault: Fault) {
        self.0.faults.lock().push((operation, fault));
    }

    pub(crate) fn seen(&self, operation: &str) -> Vec<Seen> {
        self.0.seen.lock().iter().filter(|s| s.operation == operation).cloned().collect()
    }

    pub(crate) async fn cancelled(&self) {
        self.0.cancelled.notified().await;
    }

    pub(crate) fn map(&self) -> PlacementMap {
        self.0.common.maps.borrow().clone()
    }

    /// Changes the node's map; `is_told` sends it to those who watch.
    pub(crate) fn change(&self, is_told: bool, change: impl FnOnce(&mut PlacementMap)) {
        self.0.common.maps.send_if_modified(|map| {
            change(map);
            is_told
        });
    }

    /// Records of all partitions.
    pub(crate) fn len(&self) -> usize {
        self.0.common.stores.lock().values().map(|s| s.records.len()).sum()
    }

    /// Puts every record where the map says it belongs, as a move of slots would.
    pub(crate) fn rehome(&self, name: &str) {
        let map = self.map();
        let placement = map.collection(name).unwrap();
        let mut stores = self.0.common.stores.lock();
        let all: Vec<Record> =
            stores.values_mut().flat_map(|s| std::mem::take(&mut s.records).into_values()).collect();
        for record in all {
            let owner = placement.partition_of(&record.key).unwrap().id;
            stores.entry(owner).or_default().records.insert(record.key.clone(), record);
        }
    }

    pub(crate) fn serve<I, IO>(&self, incoming: I) -> tokio::task::JoinHandle<()>
    where
        I: Stream<Item = std::io::Result<IO>> + Send + 'static,
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let max = flotilla_proto::limits::MESSAGE_BYTES_MAX;
        let shard = ShardServer::new(self.clone()).max_decoding_message_size(max);
        let routes = axum::Router::new()
            .route_service("/flotilla.shard.v1.Shard/{*rest}", shard)
            .route_service("/flotilla.shard.v1.Meta/{*rest}", MetaServer::new(self.clone()));
        tokio::spawn(async move {
            tonic::transport::Server::builder().serve_with_incoming(routes, incoming).await.unwrap();
        })
    }

    /// Notes the call, lets a fault strike, refuses a stale epoch, and gives the collection.
    async fn enter<M>(
        &self,
        operation: &'static str,
        request: &Request<M>,
        target: Option<&shard::Target>,
        view: u64,
    ) -> Result<(CollectionPlacement, PartitionId), Status> {
        let target = target.cloned().unwrap();
        let timeout = request.metadata().get("grpc-timeout").map(|t| t.to_str().unwrap().to_owned());
        let (partition, epoch, fresh) = (target.partition, target.epoch, target.fresh);
        self.0.seen.lock().push(Seen { operation, epoch, timeout, view, partition, fresh });
        self.strike(operation).await?;
        if fresh.is_none_or(|fresh| fresh.consistency() == v1::Consistency::Linearizable) {
            self.check_leader(PartitionId(partition))?;
        }
        let map = self.map();
        let id: CollectionId = target.collection_id.parse().unwrap();
        let placement = map.collection_by_id(id).cloned();
        match placement {
            Some(p) if p.epoch.0 <= epoch => Ok((p, PartitionId(partition))),
            stale => Err(Refusal::StaleEpoch {
                seen: epoch,
                current: map.epoch.0,
                placement: stale.map(|p| Box::new(placement_to_wire(&p))),
            }
            .into()),
        }
    }

    fn check_leader(&self, partition: PartitionId) -> Result<(), Status> {
        match self.0.common.leaders.lock().get(&partition) {
            Some(leader) if *leader != Some(self.0.id) => {
                let leader = leader.map(|node| node.0);
                Err(Refusal::NotLeader { partition: partition.0, leader }.into())
            }
            _ => Ok(()),
        }
    }

    async fn strike(&self, operation: &'static str) -> Result<(), Status> {
        let _ = self.0.is_paused.subscribe().wait_for(|is_paused| !is_paused).await;
        match self.take_fault(|o, fault| *o == operation && !matches!(fault, Fault::Swallow)) {
            None | Some(Fault::Swallow) => Ok(()),
            Some(Fault::Refuse(refusal)) => Err(refusal.into()),
            Some(Fault::Hang) => self.hang().await,
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }

    fn take_fault(&self, strikes: impl Fn(&&'static str, &Fault) -> bool) -> Option<Fault> {
        let mut faults = self.0.faults.lock();
        let at = faults.iter().position(|(operation, fault)| strikes(operation, fault))?;
        Some(faults.remove(at).1)
    }

    async fn hang<T>(&self) -> T {
        let _told = OnDrop(&self.0.cancelled);
        std::future::pending().await
    }

    fn matching(
        &self,
        placement: &CollectionPlacement,
        partition: PartitionId,
        filter: Option<v1::Filter>,
    ) -> Result<(Vec<Record>, u64), Status> {
        let filter = filter.map(filter_from_wire).transpose()?;
        let compiled = filter.map(|f| Compiled::new(&f, &placement.spec)).transpose()?;
        let mut stores = self.0.common.stores.lock();
        let store = stores.entry(partition).or_default();
        let passes = |r: &&Record| compiled.as_ref().is_none_or(|c| c.matches(&r.key, &r.payload));
        Ok((store.records.values().filter(passes).cloned().collect(), store.log_index))
    }

    /// Carries a write out, once per request id.
    fn apply(
        &self,
        partition: PartitionId,
        message: shard::WriteRequest,
        doomed: &[Record],
    ) -> Result<shard::WriteResponse, Status> {
        use shard::write_request::Command;
        let mut stores = self.0.common.stores.lock();
        let store = stores.entry(partition).or_default();
        let id = message.request.map(|r| (r.client, r.serial)).filter(|(client, _)| *client != 0);
        let is_new = id.is_none_or(|id| store.serials.insert(id));
        store.log_index += u64::from(is_new);
        let log_index = store.log_index;
        let affected = match message.command.unwrap() {
            _ if !is_new => 0,
            Command::Upsert(batch) => {
                for record in &batch.records {
                    let mut record = record_from_wire("r", record.clone())?;
                    record.version = log_index;
                    store.records.insert(record.key.clone(), record);
                }
                batch.records.len()
            }
            Command::Delete(list) => {
                let key = |key: &v1::Key| key_from_wire("k", Some(key.clone())).unwrap();
                list.keys.iter().filter(|k| store.records.remove(&key(k)).is_some()).count()
            }
            Command::DeleteFilter(_) => {
                doomed.iter().filter(|r| store.records.remove(&r.key).is_some()).count()
            }
        };
        Ok(shard::WriteResponse { affected: affected as u64, log_index })
    }
}

fn wire(record: Record, with_payload: bool, with_vectors: bool) -> v1::Record {
    let mut record = record_to_wire(record);
    if !with_payload {
        record.payload.clear();
    }
    if !with_vectors {
        record.vectors.clear();
    }
    record
}

fn distance(kind: Distance, a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    match kind {
        Distance::Dot => -dot(a, b),
        Distance::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Distance::Euclidean => a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum(),
        Distance::Manhattan | Distance::Hamming => a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum(),
    }
}

#[tonic::async_trait]
impl Shard for Fake {
    async fn digests(
        &self,
        r: Request<shard::DigestsRequest>,
    ) -> Result<Response<shard::DigestsResponse>, Status> {
        let (_, partition) = self.enter("digests", &r, r.get_ref().target.as_ref(), 0).await?;
        let log_index = self.0.common.stores.lock().entry(partition).or_default().log_index;
        let replica = v1::ReplicaDigest {
            partition: partition.0,
            node: self.0.id.0,
            log_index,
            digest: "0".into(),
            error: String::new(),
        };
        Ok(Response::new(shard::DigestsResponse { replicas: vec![replica] }))
    }

    async fn write(&self, r: Request<shard::WriteRequest>) -> Result<Response<shard::WriteResponse>, Status> {
        use shard::write_request::Command;
        let (placement, partition) = self.enter("write", &r, r.get_ref().target.as_ref(), 0).await?;
        let message = r.into_inner();
        let doomed = match &message.command {
            Some(Command::DeleteFilter(f)) => self.matching(&placement, partition, Some(f.clone()))?.0,
            _ => Vec::new(),
        };
        let written = self.apply(partition, message, &doomed)?;
        if self.take_fault(|o, fault| *o == "write" && matches!(fault, Fault::Swallow)).is_some() {
            return self.hang().await;
        }
        Ok(Response::new(written))
    }

    async fn import(
        &self,
        _: Request<shard::ImportRequest>,
    ) -> Result<Response<shard::ImportResponse>, Status> {
        Err(Status::unimplemented("no slots move here"))
    }

    async fn search(
        &self,
        r: Request<shard::SearchRequest>,
    ) -> Result<Response<shard::SearchResponse>, Status> {
        let view = r.get_ref().view;
        let (placement, partition) = self.enter("search", &r, r.get_ref().target.as_ref(), view).await?;
        let shard::SearchRequest { search, without, groups: only, .. } = r.into_inner();
        let search = search.unwrap();
        assert_eq!((search.offset, search.with_payload, search.recommend), (0, false, None));
        let kind = placement.spec.vectors[&search.vector_name].distance;
        let asked = search.vector.unwrap().values;
        let (records, log_index) = self.matching(&placement, partition, search.filter)?;
        let hit = |r: &Record| {
            let vector = r.vectors.get(&search.vector_name)?.dense()?;
            Some((distance(kind, &asked, vector), r.key.clone(), r.version))
        };
        let mut hits: Vec<(f32, Key, u64)> = records.iter().filter_map(hit).collect();
        hits.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        hits.retain(|hit| !without.contains(&key_to_wire(&hit.1)));
        let limit = search.limit.unwrap() as usize;
        let hits = hits.into_iter().map(|(distance, key, version)| {
            let key = Some(key_to_wire(&key));
            shard::PartialHit { key, distance, version }
        });
        let mut answer = shard::SearchResponse {
            log_index,
            plan: Some(v1::PartitionPlan { plan: "exact".into(), rounds: 1, ..Default::default() }),
            ..Default::default()
        };
        if search.group_by.is_empty() {
            answer.hits = hits.take(limit).collect();
        } else {
            let by = GroupBy::new(&search.group_by, &placement.spec)?;
            let size = (search.group_size as usize, limit);
            answer.groups = groups::naive(&by, &records, hits.collect(), size, &only);
        }
        Ok(Response::new(answer))
    }

    async fn get(&self, r: Request<shard::GetRequest>) -> Result<Response<shard::GetResponse>, Status> {
        let view = r.get_ref().view;
        let (_, partition) = self.enter("get", &r, r.get_ref().target.as_ref(), view).await?;
        let message = r.into_inner();
        let mut stores = self.0.common.stores.lock();
        let store = stores.entry(partition).or_default();
        let key = |key: v1::Key| key_from_wire("k", Some(key)).unwrap();
        let found = message.keys.into_iter().filter_map(|k| store.records.get(&key(k)).cloned());
        let records = found.map(|r| wire(r, message.with_payload, message.with_vectors)).collect();
        Ok(Response::new(shard::GetResponse { records, log_index: store.log_index }))
    }

    async fn scan(&self, r: Request<shard::ScanRequest>) -> Result<Response<shard::ScanResponse>, Status> {
        let (placement, partition) = self.enter("scan", &r, r.get_ref().target.as_ref(), 0).await?;
        let message = r.into_inner();
        let (records, log_index) = self.matching(&placement, partition, message.filter)?;
        let after = message.after.map(|k| key_from_wire("after", Some(k)).unwrap());
        let mut rest = records.into_iter().filter(|r| after.as_ref().is_none_or(|after| r.key > *after));
        let page = rest.by_ref().take(message.limit as usize);
        let records = page.map(|r| wire(r, message.with_payload, message.with_vectors)).collect();
        Ok(Response::new(shard::ScanResponse { records, more: rest.next().is_some(), log_index }))
    }

    async fn count(&self, r: Request<shard::CountRequest>) -> Result<Response<shard::CountResponse>, Status> {
        let (placement, partition) = self.enter("count", &r, r.get_ref().target.as_ref(), 0).await?;
        let (records, log_index) = self.matching(&placement, partition, r.into_inner().filter)?;
        Ok(Response::new(shard::CountResponse { count: records.len() as u64, log_index }))
    }

    async fn status(
        &self,
        r: Request<shard::StatusRequest>,
    ) -> Result<Response<shard::StatusResponse>, Status> {
        let (placement, partition) = self.enter("status", &r, r.get_ref().target.as_ref(), 0).await?;
        let (records, log_index) = self.matching(&placement, partition, None)?;
        let status = v1::CollectionStatus {
            records: records.len() as u64,
            segments: 1,
            index_progress: 1.0,
            index_eta_ms: Some(0),
            ..Default::default()
        };
        Ok(Response::new(shard::StatusResponse { status: Some(status), log_index }))
    }
}

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
        let placement = CollectionPlacement { id, spec, epoch, partitions, slots, slot_move: None };
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
                for (path, kind) in &message.add_fields {
                    c.spec.fields.insert(path.clone(), field_type_from_wire("f", path, *kind).unwrap());
                }
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

impl Fake {
    pub(crate) fn id(&self) -> NodeId {
        self.0.id
    }

    /// Whoever is asked leads.
    pub(crate) fn lead_none_named(&self) {
        self.0.common.leaders.lock().clear();
    }

    /// The highest log index of a partition.
    pub(crate) fn log_index(&self) -> u64 {
        self.0.common.stores.lock().values().map(|store| store.log_index).max().unwrap_or(0)
    }

    /// Serves on a thread of its own, so that it can be killed.
    pub(crate) fn serve_apart(&self, listener: std::net::TcpListener) {
        let (kill, killed) = oneshot::channel::<()>();
        *self.0.kill.lock() = Some(kill);
        let fake = self.clone();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                fake.serve(tokio_stream::wrappers::TcpListenerStream::new(listener));
                drop(fake);
                drop(killed.await);
            });
        });
    }

    /// Closes its port and breaks its connections.
    pub(crate) fn kill(&self) {
        self.0.kill.lock().take();
    }
}

/// Long enough for anything that should happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(20);

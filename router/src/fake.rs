//! A shard node for tests: the services `Shard` and `Meta` over a naive store in memory, with refusals on demand. Several
//! of them may share one store, as replicas that never lag would.

mod groups;
mod hits;
mod meta;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::convert::*;
use flotilla_proto::filter::Compiled;
use flotilla_proto::group::GroupBy;
use flotilla_proto::ids::{CollectionId, Epoch, NodeId, PartitionId};
use flotilla_proto::order::OrderBy;
use flotilla_proto::placement::{CollectionPlacement, Node, PlacementMap};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_server::MetaServer;
use flotilla_proto::shard::shard_server::{Shard, ShardServer};
use flotilla_proto::tenant::{Bucket, Class, Limits};
use flotilla_proto::{shard, v1};
use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
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
    /// Of every class.
    limits: Mutex<Limits>,
    /// Requests of each tenant, and how many were granted.
    buckets: Mutex<BTreeMap<String, (Bucket, u64)>>,
    began: tokio::time::Instant,
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
        let common = Common {
            maps: watch::Sender::new(map),
            stores: Mutex::default(),
            leaders: Mutex::default(),
            limits: Mutex::new(Class::Default.limits()),
            buckets: Mutex::default(),
            began: tokio::time::Instant::now(),
        };
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

    /// What tenants may have and do from now on.
    pub(crate) fn limit(&self, limits: Limits) {
        *self.0.common.limits.lock() = limits;
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
}

fn wire(record: Record, with_payload: bool, with_vectors: bool) -> Bytes {
    let mut record = record_to_wire(record);
    if !with_payload {
        record.payload.clear();
    }
    if !with_vectors {
        record.vectors.clear();
    }
    record.encode_to_vec().into()
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
            Some(Command::PatchMatching(m)) => self.matching(&placement, partition, m.filter.clone())?.0,
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
        let shard::SearchRequest { search, without, groups: only, scoring, .. } = r.into_inner();
        let search = search.unwrap();
        assert_eq!((search.offset, search.with_payload, &search.recommend), (0, false, &None));
        let (records, log_index) = self.matching(&placement, partition, search.filter.clone())?;
        let mut hits = hits::hits(&placement.spec, &search, scoring, &records);
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

    async fn weigh(&self, r: Request<shard::WeighRequest>) -> Result<Response<shard::WeighResponse>, Status> {
        let view = r.get_ref().view;
        let (placement, partition) = self.enter("weigh", &r, r.get_ref().target.as_ref(), view).await?;
        let (records, log_index) = self.matching(&placement, partition, None)?;
        Ok(Response::new(hits::weigh(r.into_inner(), &records, log_index)))
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
        let (mut records, log_index) = self.matching(&placement, partition, message.filter)?;
        if !message.key_prefix.is_empty() {
            let begins = |key: &Key| matches!(key, Key::Text(text) if text.starts_with(&message.key_prefix));
            records.retain(|record| begins(&record.key));
        }
        let key = |record: &Record| record.key.to_bytes();
        let order = (!message.order_by.is_empty())
            .then(|| OrderBy::new(&message.order_by, message.descending, &placement.spec))
            .transpose()?;
        let place =
            |r: &Record| order.as_ref().map_or_else(|| key(r), |order| order.place(&r.payload, &r.key));
        let after = message.after.map(|k| key_from_wire("after", Some(k)).unwrap().to_bytes());
        let after = after.or(Some(message.after_place)).filter(|after| !after.is_empty());
        let mut records: Vec<(Vec<u8>, Record)> = records.into_iter().map(|r| (place(&r), r)).collect();
        records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut rest = records.into_iter().filter(|r| after.as_ref().is_none_or(|after| r.0 > *after));
        let page = rest.by_ref().take(message.limit as usize);
        let (places, records): (Vec<_>, Vec<_>) =
            page.map(|(place, r)| (place, wire(r, message.with_payload, message.with_vectors))).unzip();
        let places = if order.is_some() { places } else { vec![] };
        Ok(Response::new(shard::ScanResponse { records, more: rest.next().is_some(), log_index, places }))
    }

    async fn count(&self, r: Request<shard::CountRequest>) -> Result<Response<shard::CountResponse>, Status> {
        let (placement, partition) = self.enter("count", &r, r.get_ref().target.as_ref(), 0).await?;
        let (records, log_index) = self.matching(&placement, partition, r.into_inner().filter)?;
        Ok(Response::new(shard::CountResponse { count: records.len() as u64, log_index }))
    }

    async fn aggregate(
        &self,
        r: Request<shard::AggregateRequest>,
    ) -> Result<Response<shard::AggregateResponse>, Status> {
        let (placement, partition) = self.enter("aggregate", &r, r.get_ref().target.as_ref(), 0).await?;
        let message = r.into_inner();
        let (records, log_index) = self.matching(&placement, partition, message.filter)?;
        let payloads: Vec<_> = records.iter().map(|record| &record.payload).collect();
        let aggregations = aggregations_from_wire(message.aggregations, &placement.spec)?;
        let counted = flotilla_tests::aggregate::naive(&payloads, &aggregations).encode().unwrap();
        Ok(Response::new(shard::AggregateResponse { counted, log_index }))
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

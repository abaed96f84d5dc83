//! The node as a whole: its folder, its log, its meta group and its replicas, and the gRPC services in front of them.
//!
//! [`Node::open`] takes the folder (locked against a second process, checked for its format), recovers the log, opens the
//! meta group and then whatever the placement map says this node holds. [`Node::in_process`] answers routers
//! and [`Node::for_peers`] other nodes, on whatever port the binary has for them. [`Node::stop`] ends in the opposite order.

mod fleet;
mod folder;
mod join;
mod keeper;
pub mod metrics;
mod relief;
mod replaces;
mod slots;
mod steward;
mod stored;
#[cfg(test)]
mod unequal;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::access::{Authenticator, Gate, Rights};
use flotilla_proto::ids::{META_GROUP, NodeId, PartitionId};
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::peer::peer_server::PeerServer;
use flotilla_proto::peer::raft_server::RaftServer;
use flotilla_proto::placement::{Node as Member, PlacementMap, Role};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_server::MetaServer;
use flotilla_proto::shard::shard_server::ShardServer;
use flotilla_proto::tenant::Classes;
use flotilla_security::Trust;
use flotilla_trace::Timings;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tower::layer::layer_fn;

pub use self::fleet::Standing;
pub use self::folder::FORMAT;
use self::folder::{Folder, Membership};
use self::keeper::Keeper;
use self::relief::Relief;
use self::steward::Steward;
use crate::env::{clock, memory, mmap, task};
use crate::index::vector_cache::{self, VectorCache};
use crate::log::Lanes;
use crate::meta::Meta;
use crate::meta::autoscale;
use crate::meta::catalogue::Change;
use crate::meta::catalogue::moves::Move;
use crate::meta::growth::Thresholds;
use crate::partition::answers::{self, Answers};
use crate::partition::equality::{self, Equality, OnDivergent};
use crate::partition::lag;
use crate::partition::recall::Sampling;
use crate::partition::registry::Registry;
use crate::partition::{Replica, Shared};
use crate::peers::Peers;
use crate::raft::outbox::Throttle;
use crate::raft::{Home, Start, Synced};
use crate::room::Room;
use crate::service::{MetaService, Mover, PeerService, RaftService, ShardService};
use crate::storage::Fault;
use crate::{log, raft, room, storage, worker};

pub use crate::service::Defaults;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its data folder; made if it is missing.
    pub data_dir: PathBuf,
    /// Where routers reach it, as `host:port`, or `inproc`.
    pub address: String,
    /// How it belongs to a cluster; none: it is alone.
    pub cluster: Option<ClusterOptions>,
    /// Cores that reads and background work may use (at least 1).
    pub threads: usize,
    /// The log lanes.
    pub log: log::Options,
    /// The stores.
    pub store: storage::store::Options,
    /// The Raft groups.
    pub raft: raft::Options,
    /// How often leaders are asked how far their replicas lag.
    pub lag: lag::Options,
    /// The background work of the partitions.
    pub worker: worker::Options,
    /// How often the answer of one search of a replica is compared with an exact one. Zero: never.
    pub recall_every: Duration,
    /// How replicas are compared.
    pub equality: equality::Options,
    /// What a new collection gets where its creator says nothing.
    pub defaults: Defaults,
    /// When a collection gets more partitions by itself.
    pub growth: Thresholds,
    /// When more or fewer shard nodes are wanted.
    pub autoscale: autoscale::Options,
    /// How much of a move of slots is done in one go.
    pub slots: worker::slots::Pace,
    /// How much memory and disk is to be left.
    pub room: room::Options,
    /// Which answers are kept.
    pub answers: answers::Options,
    /// Which vectors that stay on disk are kept. At most an eighth of the memory that the process may use. One cache serves
    /// the process: the first node says what it is like.
    pub vectors: vector_cache::Options,
    /// Whether sealed files are mapped, and not read into memory (default true). Said for the whole process.
    pub is_mapping: bool,
    /// The limits of tenants by class, to be those of the cluster. Default: none, they stay as they are.
    pub tenants: Option<Classes>,
}

/// How a node belongs to a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Where other nodes reach it, as `host:port`.
    pub peer_address: String,
    /// Members to ask, as `host:port` of their peer ports. None: a new folder begins a cluster.
    pub seeds: Vec<String>,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its share of the replicas, above 0; 0 counts as 1.
    pub weight: f64,
    /// Whether it learns only.
    pub is_replica: bool,
    /// Its number in a set of like nodes.
    pub ordinal: Option<u32>,
    /// How long a new node looks for a member (default 0: not at all).
    pub join_within: Duration,
    /// How long it looks before it begins a cluster itself. Default: none, while there are seeds it never does.
    pub begins_after: Option<Duration>,
    /// What it shows other members, and asks of them. Default: nothing.
    pub trust: Trust,
}

impl Options {
    /// Defaults for a folder, on as many cores as the machine has.
    pub fn new(data_dir: PathBuf) -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            data_dir,
            address: "inproc".to_owned(),
            cluster: None,
            threads,
            // An entry is applied as soon as it is durable: the log need not hold many bodies in memory.
            log: log::Options { cache_bytes: 8 << 20, ..log::Options::default() },
            store: storage::store::Options { index_threads: threads, ..Default::default() },
            raft: raft::Options::default(),
            lag: lag::Options::default(),
            worker: worker::Options::default(),
            recall_every: Duration::from_secs(30),
            equality: equality::Options::default(),
            defaults: Defaults::default(),
            growth: Thresholds::default(),
            autoscale: autoscale::Options::default(),
            slots: worker::slots::Pace::default(),
            room: room::Options::default(),
            answers: answers::Options::default(),
            vectors: vector_cache::Options::default(),
            is_mapping: true,
            tenants: None,
        }
    }

    fn member(&self, uuid: uuid::Uuid, id: NodeId) -> Member {
        let mut member = Member::new(id, uuid, self.address.clone());
        if let Some(cluster) = &self.cluster {
            member.peer_address = cluster.peer_address.clone();
            member.zone = cluster.zone.clone();
            member.weight = if cluster.weight > 0.0 { cluster.weight } else { 1.0 };
            member.role = if cluster.is_replica { Role::Replica } else { Role::Shard };
            member.ordinal = cluster.ordinal;
        }
        member
    }
}

/// A running node.
pub struct Node {
    folder: Folder,
    lanes: Arc<Lanes>,
    meta: Arc<Meta>,
    registry: Arc<Registry>,
    peers: Arc<Peers>,
    mover: Arc<Mover>,
    equality: Arc<Equality>,
    tasks: Mutex<Vec<task::JoinHandle<()>>>,
    defaults: Defaults,
    max_lag: Duration,
    trust: Trust,
    timings: Option<Timings>,
}

impl Node {
    /// Opens the node. One that is alone returns when its replicas are open and it can answer; a member of a cluster
    /// returns at once, is to be served ([`Node::for_peers`], [`Node::in_process`]), and is ready when [`Node::ready`] says so.
    ///
    /// # Errors
    /// A folder that is in use, not writable, of a newer format or damaged as a whole; a new node that no member took in. A
    /// single damaged partition is quarantined instead, and named to whoever asks for it.
    pub async fn open(options: Options) -> Result<Node, Fault> {
        let mut folder = Folder::open(&options.data_dir)?;
        let mut known = PlacementMap::default();
        let membership = match (folder.membership(), &options.cluster) {
            (Some(membership), _) => membership,
            (None, Some(cluster)) if !cluster.seeds.is_empty() => {
                let member = options.member(folder.uuid(), NodeId(0));
                match join::ask_until(&member, cluster).await? {
                    Some(joined) => {
                        known = joined.map;
                        joined.membership
                    }
                    None => Membership::first(),
                }
            }
            (None, _) => Membership::first(),
        };
        folder.bind(membership)?;
        let own = membership.id;
        let room = Arc::new(Room::new(options.room));
        room.sample_memory();
        memory::spare(room.memory().1);
        let lanes = open_log(&folder, options.log.clone()).await?;
        let trust = options.cluster.as_ref().map(|cluster| cluster.trust.clone()).unwrap_or_default();
        let peers = Arc::new(Peers::new(own, membership.cluster, trust.clone()));
        peers.learn(&known);
        let home = Home { peers: peers.clone(), throttle: Arc::default(), options: options.raft.clone() };
        let start = if own == NodeId(1) { Start::Found(vec![own]) } else { Start::Join };
        let meta = Meta::open(&folder.path().join("meta"), lanes.clone(), start, home.clone()).await?;
        let meta = Arc::new(meta);
        let threads = options.threads.max(1);
        mmap::set_mapping(options.is_mapping);
        let bytes_max = options.vectors.bytes_max.min(room.part(VECTORS_PART));
        VectorCache::shared(|| vector_cache::Options { bytes_max, ..options.vectors });
        let read_permits = Arc::new(Semaphore::new(threads * 4));
        let shared = Shared {
            store: options.store,
            home: home.clone(),
            read_permits: read_permits.clone(),
            work_permits: worker::Permits::new(room.clone()),
            worker: options.worker,
            recall: Sampling::new(options.recall_every),
            answers: Arc::new(Answers::new(options.answers, room.clone())),
            room,
            quotas: Arc::default(),
        };
        let partitions = folder.path().join("partitions");
        let registry = Arc::new(Registry::new(partitions, lanes.clone(), shared));
        let member = options.member(folder.uuid(), own);
        let mut tasks = Vec::new();
        if options.cluster.is_none() {
            let late = |why: Refusal| join::refused(format!("the meta group does not start: {why}"));
            meta.introduce(member).await.map_err(late)?;
            registry.trust_map();
            registry.reconcile(&meta.map(), true).await;
        } else {
            let seeds = options.cluster.map(|cluster| cluster.seeds).unwrap_or_default();
            tasks.push(task::spawn(announce(
                meta.clone(),
                registry.clone(),
                member,
                membership,
                (seeds, trust.clone()),
            )));
        }
        let held = u32::try_from(threads * 2).unwrap_or(u32::MAX);
        let relief = Relief::new(registry.clone(), folder.path(), (read_permits, held));
        tasks.push(task::spawn(relief.run()));
        let mover = Arc::new(Mover::new(registry.clone(), meta.clone(), peers.clone()));
        tasks.push(task::spawn(registry.clone().follow(meta.watch())));
        let keeper = Keeper::new(registry.clone(), meta.clone(), peers.clone(), options.slots);
        tasks.push(task::spawn(keeper.run()));
        let steward = Steward::new(
            registry.clone(),
            meta.clone(),
            peers.clone(),
            mover.clone(),
            (options.growth, options.tenants, options.autoscale),
        );
        tasks.push(task::spawn(steward.run()));
        tasks.push(task::spawn(lag::follow(registry.clone(), peers.clone(), options.lag)));
        tasks.push(task::spawn(follow_rate(meta.clone(), home.throttle)));
        // A replica that is told that it differs goes into quarantine, where the steward finds it.
        let on_divergent: OnDivergent = Arc::new(|partition, node| {
            tracing::error!(partition = partition.0, node = node.0, "a replica differs from the others");
        });
        let equality = Equality::new(own, registry.clone(), peers.clone(), options.equality, on_divergent);
        let equality = Arc::new(equality);
        tasks.push(task::spawn(equality.clone().run()));
        let (tasks, defaults) = (Mutex::new(tasks), options.defaults);
        let max_lag = Duration::from_millis(options.lag.max_lag_ms);
        let help = "Time of an answered read or write at the node, by partition";
        let timings = Timings::new("flotilla_partition_duration_seconds", help, &["partition", "class"]).ok();
        Ok(Node {
            folder,
            lanes,
            meta,
            registry,
            peers,
            mover,
            equality,
            tasks,
            defaults,
            max_lag,
            trust,
            timings,
        })
    }

    /// Its number in the cluster.
    pub fn id(&self) -> NodeId {
        self.peers.node()
    }

    /// Waits until it is a member, knows the map as it is now, and holds what that says.
    ///
    /// # Errors
    /// `Unavailable` if that is not so `within` this time.
    pub async fn ready(&self, within: Duration) -> Result<(), Refusal> {
        let until = clock::now() + within;
        self.registry.wait_fresh(within).await?;
        self.registry.wait_for(self.meta.map().epoch, until - clock::now()).await
    }

    /// What routers call; to be served [`guarded`].
    pub fn routes(&self) -> Routes {
        let shard = ShardServer::new(ShardService::new(
            self.registry.clone(),
            self.meta.clone(),
            self.max_lag,
            self.timings.clone(),
        ));
        let meta =
            MetaService::new(self.registry.clone(), self.meta.clone(), self.mover.clone(), self.defaults);
        let meta = MetaServer::new(meta);
        Routes::new(
            shard.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            meta.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// What other nodes call; to be served [`guarded`].
    pub fn peer_routes(&self) -> Routes {
        let (registry, meta, peers) = (self.registry.clone(), self.meta.clone(), self.peers.clone());
        let raft = RaftServer::new(RaftService::new(registry.clone(), meta.clone(), peers.clone()));
        let peer = PeerServer::new(PeerService::new(registry, meta, peers));
        Routes::new(
            raft.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            peer.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// What answers routers.
    pub fn in_process(&self) -> Routes {
        guarded(self.routes(), Rights::DATA, None)
    }

    /// What answers other nodes.
    pub fn for_peers(&self) -> Routes {
        guarded(self.peer_routes(), Rights::PEER, self.trust.nodes())
    }

    /// Hands every leadership to another node, as far as there is one, within this time.
    pub async fn step_aside(&self, within: Duration) {
        let until = clock::now() + within;
        let mut led: Vec<Arc<Replica>> = self.registry.serving();
        led.retain(|replica| replica.group().leads() && !replica.group().members().is_alone(self.id()));
        for replica in &led {
            if let Err(why) = replica.group().step_aside().await {
                tracing::warn!(partition = replica.id().0, %why, "the leadership stays");
            }
        }
        let meta = self.meta.group();
        if meta.leads() && !meta.members().is_alone(self.id()) {
            if let Err(why) = meta.step_aside().await {
                tracing::warn!(%why, "the leadership of the meta group stays");
            }
            meta.wait_follows(until - clock::now()).await;
        }
        for replica in led {
            if !replica.group().wait_follows(until - clock::now()).await {
                tracing::warn!(partition = replica.id().0, "nobody took the leadership over in time");
            }
        }
    }

    /// Ends the watches of routers and the streams of other nodes' appends, which would never end by themselves and hold up
    /// the drain.
    pub fn end_watches(&self) {
        self.meta.end_watches();
    }

    /// The groups that this node is sure to lead at this moment: no other node is, of any of them (`one-lease`).
    pub fn sure_to_lead(&self) -> Vec<PartitionId> {
        let replicas = self.registry.serving();
        let led =
            replicas.iter().filter(|replica| replica.group().leads_for_sure()).map(|replica| replica.id());
        led.chain(self.meta.group().leads_for_sure().then_some(META_GROUP)).collect()
    }

    /// What each group's log holds for good on this node (`synced-stays`). A group that is not open is missing.
    pub fn synced(&self) -> Vec<(PartitionId, Synced)> {
        let replicas = self.registry.serving();
        let groups = replicas.iter().map(|replica| (replica.id(), replica.group().synced()));
        groups.chain([(META_GROUP, self.meta.group().synced())]).collect()
    }

    /// The partitions whose replica here is in quarantine.
    pub fn quarantined(&self) -> Vec<PartitionId> {
        self.registry.quarantined().into_iter().map(|(partition, _)| partition).collect()
    }

    /// The placement map as this node knows it.
    pub fn map(&self) -> Arc<PlacementMap> {
        self.meta.map()
    }

    /// Every move that is remembered, as this node knows it.
    pub fn moves(&self) -> Vec<Move> {
        self.meta.look(|catalogue| catalogue.moves.all().cloned().collect())
    }

    /// What here is not yet, or still, otherwise than the map says: replicas, their logs, slots that come, go or are left over.
    pub fn unsettled(&self) -> Vec<String> {
        let (map, own) = (self.meta.map(), self.id());
        let held: BTreeSet<PartitionId> = map
            .partitions()
            .filter(|(_, p)| p.holders().any(|node| node == own))
            .map(|(_, p)| p.id)
            .collect();
        let serving = self.registry.serving();
        let lacking = held.iter().filter(|id| !serving.iter().any(|replica| replica.id() == **id));
        let strange = serving.iter().filter(|replica| !held.contains(&replica.id()));
        let moving = serving.iter().filter(|replica| !replica.ledger().moves().is_settled());
        let logs = self.lanes.groups().into_iter().map(PartitionId);
        let logs = logs.filter(|id| *id != META_GROUP && !held.contains(id));
        lacking
            .map(|id| format!("partition {id} does not serve"))
            .chain(strange.map(|replica| format!("partition {} is still there", replica.id())))
            .chain(moving.map(|replica| format!("slots of partition {} are on their way", replica.id())))
            .chain(logs.map(|id| format!("the log of partition {id} is still there")))
            .collect()
    }

    /// What the node's metrics are read from.
    pub fn gauges(&self) -> metrics::Gauges {
        let (registry, meta, timings) = (self.registry.clone(), self.meta.clone(), self.timings.clone());
        metrics::Gauges::new((registry, meta), self.lanes.clone(), self.equality.divergences(), timings)
    }

    /// The times of its answers, to be shown beside the gauges.
    pub fn timings(&self) -> Option<Timings> {
        self.timings.clone()
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops replicas, meta group and log, in this order. Everything acknowledged is on disk already.
    pub async fn stop(&self) {
        self.end_watches();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.registry.stop().await;
        self.meta.stop().await;
        self.lanes.close().await;
    }
}

/// These services behind the table of access rules, at a port with these rights, for whom the authenticator knows; for
/// everybody without one.
pub fn guarded(services: Routes, port: Rights, authenticator: Option<Arc<dyn Authenticator>>) -> Routes {
    let gate = layer_fn(move |inner| Gate::new(inner, port, authenticator.clone()));
    Routes::from(services.into_axum_router().layer(gate))
}

/// How long to wait before a member is asked again.
/// The vector cache takes one of so many parts of the memory that the process may use, at most.
const VECTORS_PART: u64 = 8;
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(200);

/// Tells the cluster where this node serves now; when it is in this node's own map, that map is no older than the process.
async fn announce(
    meta: Arc<Meta>,
    registry: Arc<Registry>,
    member: Member,
    membership: Membership,
    (seeds, trust): (Vec<String>, Trust),
) {
    let mut is_told = false;
    loop {
        let told = match meta.group().leader() {
            // Its own map names where it served before, so its leader may not reach it: members are asked directly too.
            Some(_) => {
                let change = Change::Introduce(member.clone());
                meta.submit(change, ANNOUNCE_PAUSE * 5).await.map(|_| ()).map_err(|why| why.to_string())
            }
            None => Err("no leader is known".to_owned()),
        };
        let told = match told {
            Ok(()) => meta.read_epoch().await.map_err(|why| why.to_string()),
            Err(why) => {
                let others = meta
                    .map()
                    .nodes
                    .iter()
                    .filter(|node| node.id != member.id)
                    .map(|node| node.peer_address.clone())
                    .collect::<Vec<_>>();
                let addresses: Vec<String> =
                    seeds.iter().cloned().chain(others).filter(|a| !a.is_empty()).collect();
                match join::ask(&addresses, &member, Some(membership), &trust).await {
                    Ok(joined) => {
                        registry.learn(&joined.map);
                        Ok(joined.map.epoch)
                    }
                    Err(join::Refused::Nobody(_)) => Err(why),
                    Err(join::Refused::Never(why)) => {
                        tracing::error!(why, "the cluster refuses this node");
                        Err(why)
                    }
                }
            }
        };
        match told {
            Ok(epoch) => {
                let mut maps = meta.watch();
                let id = member.id;
                let _ = maps.wait_for(|map| map.epoch >= epoch && map.node(id).is_some()).await;
                return registry.trust_map();
            }
            Err(why) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::info!(why, "not yet known to the cluster");
                }
                clock::sleep(ANNOUNCE_PAUSE).await;
            }
        }
    }
}

/// Keeps the rate of copies as the catalogue says.
async fn follow_rate(meta: Arc<Meta>, throttle: Arc<Throttle>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        throttle.set(meta.look(|catalogue| catalogue.moves.bytes_per_second));
    }
}

async fn open_log(folder: &Folder, options: log::Options) -> Result<Arc<Lanes>, Fault> {
    let path = folder.path().join("log");
    let at = path.clone();
    let opened = task::spawn_cpu(move || Lanes::open(&at, options)).await.map_err(|_| Fault::Cancelled)?;
    let (lanes, recovery) =
        opened.map_err(|why| Fault::Io { file: path, reason: why.to_string(), is_full: false })?;
    for torn in &recovery.torn {
        tracing::warn!(?torn, "the log ended in a torn record, which was never acknowledged");
    }
    for (group, damage) in &recovery.quarantined {
        tracing::error!(group, ?damage, "the log is damaged: this group is quarantined");
    }
    Ok(lanes)
}

#[cfg(test)]
mod tests;

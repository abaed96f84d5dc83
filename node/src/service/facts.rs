//! What the nodes say of themselves, for plans, for whoever starts moves, and for whoever says how many nodes there should be.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::ids::{NodeId, PartitionId};
use flotilla_proto::peer;
use futures::StreamExt as _;

use crate::env::{fs, memory};
use crate::meta::Meta;
use crate::meta::autoscale::Figures;
use crate::meta::plan::Facts;
use crate::partition::registry::Registry;
use crate::peers::Peers;

const ANSWER_MAX: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 16;

/// What was gathered.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// For plans.
    pub facts: Facts,
    /// Replicas that do not serve: (partition, node, why).
    pub broken: Vec<(PartitionId, NodeId, String)>,
    /// What is used of each node, and what is asked of it.
    pub figures: BTreeMap<NodeId, Figures>,
    /// Records of each partition.
    pub records: BTreeMap<PartitionId, u64>,
    /// What each node said of what it accepts.
    pub said: BTreeMap<NodeId, Said>,
    /// What each partition stores, in files and in memory.
    pub stored: BTreeMap<PartitionId, u64>,
    /// Vectors that an index is to be built over, in the replica of each partition that has most.
    pub waiting: BTreeMap<PartitionId, u64>,
}

/// What a node has accepted of tenants.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Which process it is.
    pub boot: u64,
    /// What it accepted of each tenant since it began.
    pub writes: Vec<peer::TenantWrites>,
}

/// Asks every node that was heard of lately, with a word for some of them.
pub async fn gather(
    registry: &Registry,
    meta: &Meta,
    peers: &Peers,
    words: &BTreeMap<NodeId, peer::StatusRequest>,
) -> Gathered {
    let word = |node: NodeId| words.get(&node).cloned().unwrap_or_default();
    let facts = Facts { alive: meta.alive().into_iter().collect(), ..Facts::default() };
    let mut gathered = Gathered { facts, ..Gathered::default() };
    let others: Vec<NodeId> =
        gathered.facts.alive.iter().copied().filter(|node| *node != peers.node()).collect();
    let mut answers: Vec<peer::StatusResponse> = futures::stream::iter(others)
        .map(|node| ask(peers, node, word(node)))
        .buffer_unordered(AT_ONCE)
        .filter_map(|answer| async { answer })
        .collect()
        .await;
    answers.push(own(registry, meta, peers, &word(peers.node())));
    for answer in answers {
        gathered.take(answer);
    }
    gathered
}

impl Gathered {
    fn take(&mut self, answer: peer::StatusResponse) {
        let node = NodeId(answer.node);
        self.facts.free.insert(node, answer.disk_free_bytes);
        if let Some(load) = &answer.load {
            self.figures.insert(node, figures(load, answer.disk_free_bytes));
        }
        if answer.boot != 0 {
            self.said.insert(node, Said { boot: answer.boot, writes: answer.tenants });
        }
        for replica in answer.replicas {
            let id = PartitionId(replica.partition);
            if !replica.quarantined.is_empty() {
                self.broken.push((id, node, replica.quarantined));
                continue;
            }
            let most = |of: &mut BTreeMap<PartitionId, u64>, value: u64| {
                let held = of.entry(id).or_default();
                *held = (*held).max(value);
            };
            most(&mut self.facts.bytes, replica.disk_bytes.max(replica.memory_bytes));
            most(&mut self.stored, replica.stored_bytes);
            most(&mut self.records, replica.records);
            most(&mut self.waiting, replica.waiting_vectors);
        }
    }
}

fn figures(load: &peer::NodeLoad, disk_free: u64) -> Figures {
    let (limit, whole) = (load.memory_limit_bytes, load.disk_bytes);
    let p99 = Some(Duration::from_micros(load.search_p99_micros)).filter(|p99| !p99.is_zero());
    Figures {
        memory_used: load.memory_used_bytes,
        memory_limit: limit,
        disk_used: whole.saturating_sub(disk_free),
        disk_whole: whole,
        cpu_used: if load.cpu_used.is_finite() { load.cpu_used.max(0.0) } else { 0.0 },
        cpus: if load.cpus.is_finite() { load.cpus.max(0.0) } else { 0.0 },
        p99,
        queued: load.reads_waiting,
    }
}

async fn ask(peers: &Peers, node: NodeId, word: peer::StatusRequest) -> Option<peer::StatusResponse> {
    let mut client = peers.peer(node).ok()?;
    let mut request = tonic::Request::new(word);
    request.set_timeout(ANSWER_MAX);
    client.status(request).await.ok().map(tonic::Response::into_inner)
}

/// How this node stands, which is told this.
pub fn own(
    registry: &Registry,
    meta: &Meta,
    peers: &Peers,
    word: &peer::StatusRequest,
) -> peer::StatusResponse {
    registry.quotas().told(word);
    let (boot, tenants) = registry.quotas().tell();
    let status = |replica: &std::sync::Arc<crate::partition::Replica>| {
        let status = replica.status();
        peer::ReplicaStatus {
            partition: replica.id().0,
            is_leader: replica.group().leads(),
            applied: replica.group().applied(),
            disk_bytes: status.disk_bytes,
            memory_bytes: status.memory_bytes,
            records: status.records,
            quarantined: String::new(),
            waiting_vectors: status.waiting_vectors,
            stored_bytes: status.disk_bytes + status.growing_bytes,
        }
    };
    let mut replicas: Vec<peer::ReplicaStatus> = registry.serving().iter().map(status).collect();
    replicas.extend(registry.quarantined().into_iter().map(|(partition, quarantined)| peer::ReplicaStatus {
        partition: partition.0,
        quarantined,
        ..Default::default()
    }));
    peer::StatusResponse {
        node: peers.node().0,
        disk_free_bytes: fs::free_bytes(meta.folder()).unwrap_or(0),
        memory_bytes: replicas.iter().map(|replica| replica.memory_bytes).sum(),
        replicas,
        load: Some(load(registry, meta)),
        boot,
        tenants,
    }
}

fn load(registry: &Registry, meta: &Meta) -> peer::NodeLoad {
    let room = registry.room();
    let (used, limit) = room.memory();
    let p99 = room.load().p99().unwrap_or_default();
    peer::NodeLoad {
        memory_used_bytes: used,
        memory_limit_bytes: limit,
        disk_bytes: fs::whole_bytes(meta.folder()).unwrap_or(0),
        cpu_used: room.cpu_usage(),
        cpus: memory::processors() as f64,
        search_p99_micros: u64::try_from(p99.as_micros()).unwrap_or(u64::MAX),
        reads_waiting: room.load().waiting(),
    }
}
